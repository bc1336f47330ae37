"""Trained modules in folders: ``merger.safetensors`` with the weights, ``merger.json`` with what to build.

A plan names such a folder by ``weights=``; a folder is read once, and again when its files change.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .aggregate import CrossAttention
from .mergers import MERGERS

KINDS: dict[str, type[nn.Module]] = {**MERGERS, "cross_attention": CrossAttention}
WEIGHTS, ABOUT = "merger.safetensors", "merger.json"
# The plan of a module that does not say where it was trained, without its budget
PLANS = {CrossAttention: "condensation@features,strategy=fps"}


def save_trained(module: nn.Module, folder: str | Path, arguments: dict[str, Any], **about: Any) -> None:
    """Write a module and the ``arguments`` that build it; ``about`` is what else a reader may want to know of it.

    ``plan`` there is the stage that it was trained in, without budget and weights: what ``trained_plan`` completes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    content = {"merger_type": kind_of(module), "arguments": arguments, **about}
    (folder / ABOUT).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_trained(folder: str | Path, *wanted: type[nn.Module]) -> nn.Module:
    """The module of a folder, frozen and in evaluation mode; the same object for the same folder.

    Raises FileNotFoundError for a folder that holds none, and ValueError for one of another kind than ``wanted`` and for
    weights that do not fit what the folder says they are.
    """
    folder = Path(folder)
    for name in (ABOUT, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"weights={str(folder)!r} holds no {name}; give a folder that python -m llava.train.train_merger has written"
            )
    module = _read(folder.resolve(), *((folder / name).stat().st_mtime_ns for name in (ABOUT, WEIGHTS)))
    if wanted and not isinstance(module, wanted):
        names = ", ".join(name for name, kind in KINDS.items() if issubclass(kind, wanted))
        raise ValueError(f"weights={str(folder)!r} is a trained {kind_of(module)}, where one of {names} belongs")
    return module


def kind_of(module: nn.Module) -> str:
    """What the folder of a module calls it."""
    return next(name for name, known in KINDS.items() if type(module) is known)


def trained_plan(folder: str | Path, keep: int | float) -> str:
    """A trained folder with a budget, as a plan is spelled. Raises what ``load_trained`` does."""
    module = load_trained(folder)
    about = json.loads((Path(folder) / ABOUT).read_text(encoding="utf-8"))
    stage, _, options = about.get("plan", PLANS.get(type(module), "merger")).partition(",")
    return ",".join(filter(None, (f"{stage}:{keep}", options, f"weights={folder}")))


@lru_cache(maxsize=8)
def _read(folder: Path, *_changed: int) -> nn.Module:
    file = folder / ABOUT
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        module = KINDS[about["merger_type"]](**about["arguments"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not describe a merger ({error!r}); train it anew") from None
    try:
        module.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit what {ABOUT} describes: {error}") from None
    return module.requires_grad_(False).eval()


def fitted(module: nn.Module, tokens: Tensor) -> nn.Module:
    """A module where its tokens are, and in their precision."""
    own = next(module.parameters())
    if own.device != tokens.device or own.dtype != tokens.dtype:
        module.to(tokens.device, tokens.dtype)
    return module

"""Trained modules in folders: ``merger.safetensors`` with the weights, ``merger.json`` with what to build.

A plan names such a folder by ``weights=``. The tensors of a folder are read once, and again when its files change; every
stage builds a module of its own from them.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava.shipped import shipped

from ..aggregate import CrossAttention
from ..checks import shown
from ..spelling import spell_value
from .kinds import MERGERS

Kind = TypeVar("Kind", bound=nn.Module)

KINDS: dict[str, type[nn.Module]] = {**MERGERS, "cross_attention": CrossAttention}
WEIGHTS, ABOUT = "merger.safetensors", "merger.json"
# The plan of a module that does not say where it was trained, without its budget
PLANS: dict[type[nn.Module], str] = {CrossAttention: "condensation@features,strategy=fps"}


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


def load_trained(folder: str | Path, *wanted: type[Kind]) -> Kind:
    """A new module with a folder's weights: float32, on the CPU, frozen and in evaluation mode.

    Raises FileNotFoundError for a folder that holds none, and ValueError for one of another kind than ``wanted``, for
    weights that do not fit what the folder says they are, and for a ``folder`` that is no path.
    """
    path, about, tensors = _open(folder)
    module = _build(path, about, tensors)
    if wanted and not isinstance(module, wanted):
        names = ", ".join(name for name, kind in KINDS.items() if issubclass(kind, wanted))
        raise ValueError(f"weights={shown(str(folder))} is a trained {kind_of(module)}, where one of {names} belongs")
    return cast(Kind, module)


def kind_of(module: nn.Module) -> str:
    """What the folder of a module calls it."""
    return next(name for name, known in KINDS.items() if type(module) is known)


def trained_plan(folder: str | Path, keep: int | float) -> str:
    """A trained folder with a budget, as a plan is spelled. Raises what ``load_trained`` does."""
    module, (_, about, _) = load_trained(folder), _open(folder)
    stage, _, options = str(about.get("plan", PLANS.get(type(module), "merger"))).partition(",")
    return ",".join(filter(None, (f"{stage}:{keep}", options, f"weights={spell_value(str(folder))}")))


def call_trained(module: nn.Module, tokens: Tensor, *others: Tensor | None, **options: Any) -> Any:
    """Call a module on tokens of any dtype and device: it computes on their device and in its own dtype.

    The tokens, and whatever else is floating point among the arguments, are cast; the module's parameters never are, so
    an optimiser that holds them keeps them. The caller casts the result back.
    """
    weight = next(module.parameters())
    if weight.device != tokens.device:
        module.to(tokens.device)
    cast = [
        value.to(weight.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in (tokens, *others)
    ]
    return module(*cast, **options)


def _open(folder: str | Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """The resolved path of a folder, what it says of its module, and the module's tensors, which nobody may change."""
    if not isinstance(folder, str | Path):
        raise ValueError(f"weights={shown(folder)} must be the path of a folder with {ABOUT} and {WEIGHTS}")
    folder = shipped(folder)
    for name in (ABOUT, WEIGHTS):
        if not os.path.isfile(os.path.join(folder, name)):
            raise FileNotFoundError(
                f"weights={shown(str(folder))} holds no {name}; give a folder that python -m llava.train.train_merger has"
                " written"
            )
    path = Path(folder).resolve()
    stamps = [(status.st_mtime_ns, status.st_size) for status in ((path / name).stat() for name in (ABOUT, WEIGHTS))]
    return path, *_read(path, *stamps)


@lru_cache(maxsize=8)
def _read(folder: Path, *_stamps: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _undescribed(folder, error) from None
    try:
        return about, load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise _unfit(folder, error) from None


def _build(folder: Path, about: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The module that ``about`` describes, with tensors of its own; no random number is drawn for it."""
    try:
        with torch.device("meta"):
            module = KINDS[about["merger_type"]](**about["arguments"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _undescribed(folder, error) from None
    try:
        module.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise _unfit(folder, error) from None
    return module.requires_grad_(False).eval()


def _undescribed(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"{folder / ABOUT} does not describe a merger ({shown(error)}); train it again")


def _unfit(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"{folder / WEIGHTS} does not fit what {ABOUT} describes: {error}")

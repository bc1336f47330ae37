"""The folders of a training: the newest complete checkpoint, its weights, and file errors that say what to do."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from llava.model.builder import LORA_FILE, NON_LORA_FILE, PROJECTOR_FILE
from llava.model.checkpoint import load_tensors, weight_files

STATE_FILE = "trainer_state.json"  # the last file of a checkpoint: one that has it is complete
ADAPTER_FILE = "adapter_model.safetensors"
TORCH_WRITER = ("PytorchStreamWriter", "inline_container", "iostream error")  # how torch.save says that it cannot write
SHOWN = 5  # weights that an error message names
REMEDY = "remove its folder, and the same command resumes from an older checkpoint or starts again"


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete `checkpoint-*` of a run; None if there is none. An incomplete one is skipped."""
    complete = [path for path in Path(folder).glob("checkpoint-*") if _is_whole(path)]
    numbered = [path for path in complete if path.name.removeprefix("checkpoint-").isdecimal()]
    return max(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def check_whole(folder: str | Path) -> None:
    """Raises ValueError for a folder that is not a complete checkpoint."""
    if not _is_whole(Path(folder)):
        raise ValueError(
            f"resume_from_checkpoint={str(folder)!r} is no complete checkpoint: {STATE_FILE} is missing or cut short; leave "
            "it out to resume from the newest complete one"
        )


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint's last file was written to its end."""
    try:
        return isinstance(json.loads((folder / STATE_FILE).read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def restore_trained(model: nn.Module, folder: Path) -> None:
    """Fills the trainable weights of a model from a folder that `LlavaTrainer` saved, whichever layout it has.

    Raises FileNotFoundError, or ValueError that names the trainable weights that the folder lacks or has in another shape.
    """
    tensors = _tensors_of(folder)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    unfit = sorted(name for name in trained if name not in tensors or tensors[name].shape != trained[name].shape)
    if unfit:
        shown = ", ".join(unfit[:SHOWN]) + (f" and {len(unfit) - SHOWN} more" if len(unfit) > SHOWN else "")
        raise ValueError(f"{folder} has no fitting {shown}; was it saved by a run with the same model and flags?")
    model.load_state_dict({name: tensors[name] for name in trained}, strict=False)


def _tensors_of(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder, under the names of the model that is trained."""
    if (folder / LORA_FILE).is_file():
        # peft leaves the adapter's own name ("default") out of the names it writes.
        adapter = {
            name.replace(".weight", ".default.weight"): tensor
            for name, tensor in load_tensors(folder / ADAPTER_FILE).items()
        }
        return {**adapter, **load_tensors(folder / NON_LORA_FILE)}
    if (folder / PROJECTOR_FILE).is_file():
        return load_tensors(folder / PROJECTOR_FILE)
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= load_tensors(file)
    return tensors


@contextmanager
def writing(folder: str | Path, whole: str | Path | None) -> Iterator[None]:
    """Whatever stops a file from being written becomes one OSError that names the folder and the checkpoint that is `whole`.

    A full disk is an OSError, a SafetensorError or a RuntimeError, depending on who writes.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(mark in str(error) for mark in TORCH_WRITER):
            raise
        kept = f"the last whole checkpoint is {whole}" if whole else "no checkpoint was written yet"
        raise OSError(
            f"{folder} cannot be written ({_first_line(error)}); {kept}. Make room, and the same command resumes there"
        ) from error


@contextmanager
def reading(file: str | Path) -> Iterator[None]:
    """Whatever is wrong with a file of a checkpoint becomes one ValueError that names it; no code in it is run."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds something else than tensors and numbers, or is cut short, and is not read; {REMEDY}"
        ) from error
    except (RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} does not fit this training or is damaged ({_first_line(error)}); {REMEDY}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

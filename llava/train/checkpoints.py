"""The folders of a training: the newest complete checkpoint, its weights, and file errors that say what to do."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from llava.files import read_json, write_json
from llava.folders import differences
from llava.model.builder import LORA_FILE, NON_LORA_FILE, PROJECTOR_FILE
from llava.model.checkpoint import load_tensors, weight_files

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"  # the last file of a checkpoint: one that has it is complete
ASKED_FILE = "training.json"  # beside the checkpoints: what the run was asked for
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


def note_asked(output: str | Path, asked: Mapping[str, Any], resumed_from: str | Path | None) -> None:
    """Write beside a run's checkpoints what it was asked for; one resumed with something else says in a warning what differs.

    It goes on nevertheless, since more epochs or smaller batches may be meant. asked: nested plain values. resumed_from:
    a checkpoint, whose run's own file is compared; nothing is said of one that has none.
    """
    if resumed_from is not None and (there := Path(resumed_from).parent / ASKED_FILE).is_file():
        if changes := differences(read_json(there), asked):
            logger.warning(
                "%s is of a run that was asked for something else, and is gone on from: %s. If that is not meant, give "
                "another --output_dir, or remove %s",
                resumed_from,
                changes,
                there.parent,
            )
    Path(output).mkdir(parents=True, exist_ok=True)
    write_json(Path(output) / ASKED_FILE, asked)


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

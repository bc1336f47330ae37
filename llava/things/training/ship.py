"""What a training has learnt, small enough for a repository: LoRA and projector in bfloat16, no state of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava.files import read_json, write_json
from llava.model.builder import NON_LORA_FILE, PROJECTOR_FILE

STAGES = "stages.json"
ADAPTER = "adapter_model.safetensors"
BASE_NAME = "llava-things-base"  # what the adapter is said to belong to, in place of a path


def ship(learnt: Path, output: Path, finished: Sequence[str]) -> Path:
    """Copy a LoRA's folder to ``output`` in bfloat16: 22 MB. Its config has no reduction: the plan was that of the training.

    finished: names of the stages that it has been through, which are written beside it.

    Raises FileNotFoundError for a folder that holds no LoRA.
    """
    for name in (ADAPTER, "adapter_config.json", NON_LORA_FILE, "config.json"):
        if not (learnt / name).is_file():
            raise FileNotFoundError(f"{learnt} holds no {name}; give the folder of a finished stage")
    output.mkdir(parents=True, exist_ok=True)
    save_file(_halved(load_file(learnt / ADAPTER)), output / ADAPTER, {"format": "pt"})
    torch.save(_halved(torch.load(learnt / NON_LORA_FILE, weights_only=True)), output / NON_LORA_FILE)
    write_json(
        output / "adapter_config.json",
        read_json(learnt / "adapter_config.json") | {"base_model_name_or_path": BASE_NAME},
    )
    config = read_json(learnt / "config.json") | {"reduction": None, "_name_or_path": BASE_NAME}
    write_json(output / "config.json", config)
    write_json(output / STAGES, list(finished))
    return output


def finished_stages(folder: Path) -> list[str]:
    """The stages that what lies in a folder has been through; none where nothing was shipped."""
    return read_json(folder / STAGES, list, "remove it to begin from nothing") if (folder / STAGES).is_file() else []


def digest(learnt: Path) -> str:
    """SHA-256 of what a folder has learnt: its LoRA, or its projector where it has no LoRA."""
    file = learnt / ADAPTER
    return hashlib.sha256((file if file.is_file() else learnt / PROJECTOR_FILE).read_bytes()).hexdigest()


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.bfloat16().contiguous() for name, tensor in tensors.items()}

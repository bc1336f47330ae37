"""A whole checkpoint made of a base and what was trained on it, and the projector of a checkpoint alone."""

from __future__ import annotations

from pathlib import Path

import torch

from llava.model.builder import PROJECTION, load_pretrained_model
from llava.model.checkpoint import find_folder, stored_tensors
from llava.model.loading.layout import own_name


def save_merged(model_path: str | Path, model_base: str | Path, output: str | Path, dtype: str = "float16") -> None:
    """Writes a LoRA or a projector together with the model it belongs to as one checkpoint: weights, tower and tokenizer.

    dtype: of what is written; the sums are formed in float32. Raises what `load_pretrained_model` does, and ValueError for an
    `output` that holds anything.
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; give a new folder")
    tokenizer, model, _, _ = load_pretrained_model(model_path, model_base, device="cpu", dtype=dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_projector(model_path: str | Path, output: str | Path) -> list[str]:
    """Writes the projector of a whole checkpoint to a file that `--pretrain_mm_mlp_adapter` reads; returns its names.

    The tensors are as stored, one at a time, so that a model of any size is read in little memory. Raises FileNotFoundError
    for a folder without weights, ValueError for one without a projector.
    """
    folder = find_folder(model_path, "model")
    stored = stored_tensors(folder, lambda name: own_name(name).startswith(PROJECTION))
    tensors = {own_name(name): tensor for name, tensor in stored}
    if not tensors:
        raise ValueError(f"{folder} holds no projector: no tensor is named {' or '.join(PROJECTION)}; give a LLaVA")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, output)
    return sorted(tensors)

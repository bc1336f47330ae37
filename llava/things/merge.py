"""What training has learnt, merged into the weights of the parts: a checkpoint that needs no base."""

from __future__ import annotations

import shutil
from pathlib import Path

from llava.files import read_json, write_json
from llava.folders import is_made, new_folder
from llava.model.builder import load_pretrained_model

from .assemble import MARK, TOWER_FOLDER, save_halves
from .download import check_room, room_named
from .training.ship import ADAPTER, digest

WEIGHTS = "model.safetensors"


def merge(base: Path, learnt: Path, output: Path) -> Path:
    """Write the checkpoint of the parts in ``base`` with the LoRA and the projector of ``learnt`` in them, float16.

    A folder that was made from the same is left as it is; it is complete or absent. Raises FileNotFoundError for a
    folder without a LoRA, ValueError for an ``output`` that holds something else, OSError for a disk without room.
    """
    if not (learnt / ADAPTER).is_file():
        raise FileNotFoundError(f"{learnt} holds no {ADAPTER}; give the folder that llava things train wrote")
    made = read_json(base / MARK) | {"learnt": digest(learnt)}
    if is_made(output, MARK, made, "build", "built"):
        return output
    with new_folder(output) as partial:
        check_room(partial, (base / WEIGHTS).stat().st_size, output.name)
        _, model, _, _ = load_pretrained_model(learnt, base, device="cpu", dtype="float32")
        tensors = {name: tensor for name, tensor in model.state_dict().items() if ".vision_tower." not in name}
        if model.config.tie_word_embeddings:
            tensors.pop("lm_head.weight", None)
        with room_named(partial):
            for file in base.iterdir():
                if file.is_file() and file.name not in (WEIGHTS, MARK, "README.md"):
                    shutil.copy2(file, partial)
            shutil.copytree(base / TOWER_FOLDER, partial / TOWER_FOLDER)
            save_halves(tensors, partial)
            write_json(partial / MARK, made)
            if (learnt / "README.md").is_file():
                shutil.copy2(learnt / "README.md", partial)
        load_pretrained_model(partial, device="cpu", dtype="float16")
    return output

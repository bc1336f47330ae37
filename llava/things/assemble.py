"""Tower and language model as one checkpoint in LLaVA's own layout, with a projector that nobody has trained yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llava.files import write_json, write_text
from llava.folders import new_folder
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_projector.builder import build_vision_projector

from .download import check_room, room_named
from .language import Language
from .tower import Tower

SIDE = 336  # pixels: with patches of 14 the 576 tokens of LLaVA-1.5
TOWER_FOLDER = "dinov2-patch14-336"
TEMPLATE = "qwen_1_5"  # ChatML with a line break after every turn
MARK = "build.json"  # what it was made from; the folder gets its name when everything is in it
SELECT_LAYER = -2


def assemble(language: Language, tower: Tower, output: Path, made: dict[str, Any], seed: int = 0) -> Path:
    """Write a checkpoint folder that ``load_pretrained_model`` reads, float16, its tower in a folder inside.

    made: what the parts are, written into the folder. seed: of the projector. It is written into a folder beside
    ``output``, read back there once, and renamed at the end, so that ``output`` is complete or absent. Raises
    ValueError for parts that do not fit together, OSError for a disk without room.
    """
    with new_folder(output) as partial:
        (partial / TOWER_FOLDER).mkdir()
        count = sum(tensor.numel() for part in (language, tower) for tensor in part.tensors.values())
        check_room(partial, 2 * count, output.name)
        with room_named(partial):
            _write_tower(tower, partial / TOWER_FOLDER)
            _write_model(language, tower, partial, seed)
            write_json(partial / MARK, made)
            write_text(partial / "README.md", card(made))
        load_pretrained_model(partial, device="cpu", dtype="float16")
    return output


def card(made: dict[str, Any]) -> str:
    """What is in a built folder, and under which licences."""
    parts = "\n".join(f"* {role}: {made[role]['source']} ({made[role]['licence']})" for role in ("tower", "language"))
    return (
        "# A LLaVA of real parts, its projector untrained\n\n"
        f"{parts}\n\n"
        f"Pictures of {SIDE} x {SIDE} pixels, an mlp2x_gelu projector with random weights (seed {made['seed']}), ChatML.\n"
        "Until the projector is trained, what it answers about a picture means nothing.\n"
    )


def _write_tower(tower: Tower, folder: Path) -> None:
    save_halves(tower.tensors, folder)
    write_json(folder / "config.json", tower.config)
    square = {"height": SIDE, "width": SIDE}
    processor = {
        "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": SIDE}, "resample": 3,
        "do_center_crop": True, "crop_size": square, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    write_json(folder / "preprocessor_config.json", processor)


def _write_model(language: Language, tower: Tower, folder: Path, seed: int) -> None:
    text = language.config
    fields = {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "dtype": "float16",
        "conv_mode": TEMPLATE, "image_aspect_ratio": "pad", "mm_hidden_size": tower.config["hidden_size"],
        "mm_patch_merge_type": "flat", "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": SELECT_LAYER,
        "mm_vision_tower": TOWER_FOLDER, "use_mm_proj": True,
    }  # fmt: skip
    ends = {
        "bos_token_id": None,
        "eos_token_id": language.tokenizer.eos_token_id,
        "pad_token_id": language.tokenizer.pad_token_id,
    }
    config = {name: value for name, value in text.items() if name != "torch_dtype"} | fields | ends
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = build_vision_projector(SimpleNamespace(**config))
    weights = {f"model.mm_projector.{name}": value for name, value in projector.state_dict().items()}
    save_halves(language.tensors | weights, folder)
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json", {"do_sample": False} | {k: v for k, v in ends.items() if v is not None}
    )
    language.tokenizer.save_pretrained(folder)


def save_halves(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors as the float16 weights of a folder."""
    halves = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})

"""The embedded model as a folder in LLaVA-1.5's published layout, written and read."""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPVisionModel, LlamaForCausalLM

from llava.model.language_model.llava_family import OWN_LAYOUT

from . import world
from .language import build_language_model, build_projector
from .tower import MEAN, SELECT_LAYER, STD

TOWER_FOLDER = "clip-shapes-patch14-336"
_PROJECTOR = "model.mm_projector."


def export(tower, projector, model, tokenizer_file: Path, folder: Path) -> None:
    """Write a LLaVA-1.5 checkpoint: float16 weights, the tower in a folder of its own beside them."""
    (folder / TOWER_FOLDER).mkdir(parents=True, exist_ok=True)
    tower.half().save_pretrained(folder / TOWER_FOLDER)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": {"shortest_edge": world.SIZE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": world.SIZE, "width": world.SIZE},
        "do_rescale": True, "do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD), "do_convert_rgb": True,
    }  # fmt: skip
    _write_json(folder / TOWER_FOLDER / "preprocessor_config.json", processor)
    weights = {f"{_PROJECTOR}{name}": value for name, value in projector.state_dict().items()}
    weights |= {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(
        {name: value.half().contiguous() for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = model.config.to_dict()
    config |= {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "dtype": "float16",
        "conv_mode": "vicuna_v1",
        "image_aspect_ratio": "pad", "mm_hidden_size": tower.config.hidden_size, "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": SELECT_LAYER, "mm_vision_tower": TOWER_FOLDER, "use_mm_proj": True,
        **OWN_LAYOUT,
    }  # fmt: skip
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False}
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": True,
            "padding_side": "right",
        },
    )
    (folder / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def load(
    folder: Path,
) -> tuple[CLIPVisionModel, sentencepiece.SentencePieceProcessor, LlamaForCausalLM, nn.Sequential]:
    """Tower, tokenizer, language model and projector of a folder that ``export`` wrote, in float32.

    Raises FileNotFoundError naming a file that is not there, and ValueError for weights of another architecture.
    """
    files = [folder / name for name in ("config.json", "model.safetensors", "tokenizer.model", TOWER_FOLDER)]
    if missing := [str(file) for file in files if not file.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)} not found; give the folder of an embedded model as start")
    config = json.loads(files[0].read_text(encoding="utf-8"))
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(files[2]))
    weights = {name: value.float() for name, value in load_file(files[1]).items()}
    model = build_language_model(tokenizer.vocab_size(), config["num_hidden_layers"])
    projector = build_projector(config["mm_hidden_size"])
    weights["lm_head.weight"] = weights.get("model.embed_tokens.weight", model.lm_head.weight)
    own = {name: value for name, value in weights.items() if not name.startswith(_PROJECTOR)}
    try:
        model.load_state_dict(own)
        projector.load_state_dict(
            {name.removeprefix(_PROJECTOR): weights[name] for name in weights.keys() - own.keys()}
        )
    except RuntimeError as error:
        raise ValueError(f"{files[1]} is not of the embedded model's architecture: {error}") from None
    return CLIPVisionModel.from_pretrained(files[3]).float().eval(), tokenizer, model, projector

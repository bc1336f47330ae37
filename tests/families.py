"""Tiny random LLaVA checkpoints of every family of decoders and towers, in LLaVA's own layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from llava.model.loading.families import FAMILIES
from llava.model.tokenizer import load_tokenizer
from tests.conftest import PARITY15
from tests.tower import SIDE, write_clip

WIDTH, LAYERS = 32, 4
ENDS = {"llama3": ("<|eot_id|>", "<|end_of_text|>"), "qwen": ("<|im_end|>", "<|endoftext|>")}
MARKS = {
    "llama3": ("<|begin_of_text|>", *ENDS["llama3"], "<|start_header_id|>", "<|end_header_id|>"),
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
}
# What a checkpoint says beside the sizes: its model_type, its class, its own fields
DECODERS: dict[str, dict[str, Any]] = {
    "mistral": {"model_type": "llava_mistral", "sliding_window": None, "rope_theta": 1e6},
    "qwen": {"model_type": "llava_qwen", "rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 131072},
    "llama3": {"model_type": "llava_llama", "rope_theta": 5e5},
}
TEXTS = ["What is in the picture?", "A red square, I think. Is it a dog? No: it's a café.", "system user assistant\n\n"]


def write_tokenizer(folder: Path, kind: str) -> Path:
    """A byte-level BPE as Llama-3 (BOS in front of every text) or Qwen2 (no BOS) have; for Mistral the sentencepiece model."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "mistral":
        for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(PARITY15 / "checkpoint" / name, folder)
        return folder
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(TEXTS * 4, trainer)
    core.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in MARKS[kind]])
    bos = None
    if kind == "llama3":
        bos = MARKS[kind][0]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    ends = {"bos_token": bos, "eos_token": ENDS[kind][1], "pad_token": ENDS[kind][1]}
    PreTrainedTokenizerFast(tokenizer_object=core, **{k: v for k, v in ends.items() if v}).save_pretrained(folder)
    return folder


def draw(model: nn.Module, seed: int = 0) -> None:
    """Weights large enough that attention is far from uniform; biases too, norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() > 1 or name.endswith("bias"):
                tensor.normal_(std=0.2, generator=generator)


def write_llava(
    folder: Path, kind: str, tower: str | None = None, anyres: bool = False, tied: bool = False, **fields: Any
) -> Path:
    """A whole LLaVA in a folder, its tower (a CLIP of 64 patches unless one is given) in another beside the weights."""
    write_tokenizer(folder, kind)
    if tower is None:
        write_clip(folder / "tower")
        tower = "tower"
    vision = json.loads((folder / tower / "config.json").read_text())
    width = vision.get("vision_config", vision)["hidden_size"]
    shape: dict[str, Any] = {"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat"}
    if anyres:
        shape = {
            "image_aspect_ratio": "anyres",
            "mm_patch_merge_type": "spatial_unpad",
            "image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
        }
    config = {
        "vocab_size": len(load_tokenizer(folder)), "hidden_size": WIDTH, "intermediate_size": 48,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": tied, "use_cache": True,
        "bos_token_id": 1, "eos_token_id": 2, "mm_vision_tower": tower, "mm_hidden_size": width,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False, "mm_use_im_patch_token": False, **shape, **DECODERS[kind], **fields,
    }  # fmt: skip
    family = next(family for family in FAMILIES if config["model_type"] in family.model_types)
    config["architectures"] = [family.model.__name__]
    model = family.model(family.config.from_dict({k: v for k, v in config.items() if k != "model_type"}))
    draw(model)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if "vision_tower" not in name}
    if tied:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


VISION = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIDE, "patch_size": 4,
}  # fmt: skip


def write_tower(folder: Path, kind: str) -> Path:
    """A random tower and its image processor in a folder: "clip", "siglip" (whole, with its text side), "dinov2", "registers"."""
    if kind == "clip":
        return write_clip(folder)
    square = {"height": SIDE, "width": SIDE}
    processor: dict[str, Any] = {
        "image_processor_type": "BitImageProcessor", "crop_size": square, "size": {"shortest_edge": SIDE + 4}, "resample": 3,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    if kind == "siglip":
        text = {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 20,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1,
        }  # fmt: skip
        tower: Any = SiglipModel(SiglipConfig(vision_config={**VISION, "intermediate_size": 48}, text_config=text))
        half = [0.5, 0.5, 0.5]
        processor = {
            "image_processor_type": "SiglipImageProcessor", "size": square, "image_mean": half, "image_std": half, "resample": 3,
        }  # fmt: skip
    elif kind == "dinov2":
        tower = Dinov2Model(Dinov2Config(**VISION, mlp_ratio=2))
    else:
        tower = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**VISION, mlp_ratio=2, num_register_tokens=3, use_swiglu_ffn=True)
        )
    draw(tower)
    tower.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder

"""A small random CLIP, whole: what tests of evidence from the tower run on."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.vision.seen import SeenCrops
from llava.reduction import Need, get_method
from llava.reduction.stage import BATCHED_SITES

WIDTH, HEADS, LAYERS, SIDE, PATCH = 32, 4, 4, 32, 4  # 64 patches
FOLDER = TemporaryDirectory(prefix="clip-")  # goes when the tests end
WORDS = ["what", "is", "in", "the", "picture", "a", "red", "square", "where", "?"]


def write_clip(folder: Path, text: bool = True) -> Path:
    """A random CLIP with a tokenizer of a few words in a folder, or its vision side alone."""
    torch.manual_seed(0)
    tokens = ["<|startoftext|>", "<|endoftext|>", *WORDS]
    tokens = [
        *(f"{letter}" for letter in map(chr, range(33, 127))),
        *(f"{chr(c)}</w>" for c in range(33, 127)),
        *tokens,
    ]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    end = vocabulary["<|endoftext|>"]
    config = CLIPConfig(
        text_config={
            "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": len(vocabulary), "max_position_embeddings": 77, "projection_dim": 24,
            "bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": end, "pad_token_id": end,
        },
        vision_config={
            "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "image_size": SIDE, "patch_size": PATCH, "projection_dim": 24,
        },
        projection_dim=24,
    )  # fmt: skip
    clip = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    (clip if text else clip.vision_model).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
                    "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": SIDE}, "crop_size": size}))
    return folder


@cache
def clip_tower(layer: int = -2) -> CLIPVisionTower:
    """The small CLIP as LLaVA's tower, whose features are those of a layer."""
    folder = write_clip(Path(FOLDER.name))
    return CLIPVisionTower(str(folder), SimpleNamespace(mm_vision_select_layer=layer, mm_vision_select_feature="patch"))


def seen(pixels: Tensor, questions: list[str] | None = None, layers: tuple[int, ...] = (0, -2, -1)) -> SeenCrops:
    """What that tower saw of some crops (G, 3, 32, 32)."""
    tower = clip_tower()
    out = tower.encode(pixels, watched={tower.layer_number(layer) for layer in layers})
    return SeenCrops(tower, out.entered, out.hidden, questions)


def early_plan(name: str) -> str:
    """A method before the decoder at a budget that all can have; this tower has two layers, and no text side of CLIP."""
    method = get_method(name)
    site = "@features" if "features" in method.sites and Need.CLIP not in method().needs else "@projected"
    options = [str(144)] if method.wants_keep else []
    options += ["relevance=embeddings"] if Need.CLIP in method().needs else []
    options += ["shallow=0"] if name == "vscan" else []
    return name + ("" if set(BATCHED_SITES) & set(method.sites) else site) + ":" * bool(options) + ",".join(options)

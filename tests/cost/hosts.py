"""Tiny random models of every family, from their own config classes, and what they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llava.cost.families.base import Picture

IMAGE = 190
TEXT = dict(
    vocab_size=200, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7
)
QWEN = dict(depth=4, hidden_size=32, num_heads=4, patch_size=7, spatial_merge_size=2, temporal_patch_size=2)
QWEN_IDS = dict(image_token_id=IMAGE, video_token_id=191, vision_start_token_id=192, vision_end_token_id=193)
PINPOINTS = [[28, 56], [56, 28], [56, 56]]


def clip() -> dict[str, Any]:
    return {"model_type": "clip_vision_model", **VISION, "projection_dim": 16}


def siglip(head: bool = False) -> dict[str, Any]:
    return {"model_type": "siglip_vision_model", **VISION, "vision_use_head": head}


def text(model_type: str, **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, **TEXT, **more}


CONFIGS: dict[str, dict[str, Any]] = {
    "llava": dict(model_type="llava", vision_config=clip(), text_config=text("llama"), image_token_index=IMAGE),
    "llava, two layers of the tower": dict(
        model_type="llava", vision_config=clip(), text_config=text("llama"), image_token_index=IMAGE,
        vision_feature_layer=[-2, -1],
    ),
    "llava_next": dict(
        model_type="llava_next", vision_config=clip(), text_config=text("mistral", sliding_window=None),
        image_token_index=IMAGE, image_grid_pinpoints=PINPOINTS,
    ),
    "llava_onevision": dict(
        model_type="llava_onevision", vision_config=siglip(), text_config=text("qwen2"), image_token_index=IMAGE,
        video_token_index=191, image_grid_pinpoints=PINPOINTS, vision_aspect_ratio="anyres_max_9",
    ),
    "llava_onevision, made smaller": dict(
        model_type="llava_onevision", vision_config=siglip(), text_config=text("qwen3", head_dim=8),
        image_token_index=IMAGE, video_token_index=191, image_grid_pinpoints=PINPOINTS, vision_aspect_ratio="anyres_max_1",
    ),
    "qwen2_vl": dict(
        model_type="qwen2_vl", vision_config={**QWEN, "embed_dim": 32, "mlp_ratio": 2},
        text_config=dict(**TEXT, rope_parameters=MROPE), **QWEN_IDS,
    ),
    "qwen2_5_vl": dict(
        model_type="qwen2_5_vl",
        vision_config={**QWEN, "intermediate_size": 48, "out_hidden_size": 32, "window_size": 28, "fullatt_block_indexes": [1]},
        text_config=dict(**TEXT, rope_parameters=MROPE), **QWEN_IDS,
    ),
    "qwen3_vl": dict(
        model_type="qwen3_vl",
        vision_config={
            **QWEN, "intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        text_config=dict(**TEXT, head_dim=16, rope_parameters={**MROPE, "mrope_section": [2, 3, 3]}), **QWEN_IDS,
    ),
    "internvl": dict(
        model_type="internvl", vision_config={**VISION, "image_size": [28, 28], "patch_size": [7, 7]},
        text_config=text("qwen2"), image_token_id=IMAGE, image_seq_length=4,
    ),
    "idefics3": dict(
        model_type="idefics3", vision_config=VISION, text_config=text("llama"), image_token_id=IMAGE, scale_factor=2,
        pad_token_id=0,
    ),
    "smolvlm": dict(
        model_type="smolvlm", vision_config=VISION, text_config=text("llama", tie_word_embeddings=True),
        image_token_id=IMAGE, scale_factor=2, pad_token_id=0,
    ),
    "paligemma": dict(
        model_type="paligemma", vision_config={**siglip(), "projection_dim": 32}, text_config=text("gemma", head_dim=8),
        image_token_index=IMAGE, projection_dim=32, hidden_size=32,
    ),
    "gemma3": dict(
        model_type="gemma3", vision_config=siglip(head=True),
        text_config=text(
            "gemma3_text", head_dim=8, query_pre_attn_scalar=8, sliding_window=12,
            layer_types=["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
        ),
        mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=192, eoi_token_index=193,
    ),
}  # fmt: skip


@dataclass
class Asked:
    """A tiny model and the inputs of one row with these pictures."""

    model: PreTrainedModel
    inputs: dict[str, Any]
    rows: int


def config_of(name: str) -> Any:
    content = {key: value for key, value in CONFIGS[name].items() if key != "model_type"}
    return CONFIG_MAPPING[CONFIGS[name]["model_type"]].from_dict(content)


def asked(name: str, pictures: list[Picture], sizes: list[tuple[int, int]], words: int) -> Asked:
    """A prompt with these pictures, of sizes (height, width), and so many words, their separators among them."""
    torch.manual_seed(0)
    config, model_type = config_of(name), CONFIGS[name]["model_type"]
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    parts = []
    for picture in pictures:
        lines = picture.separators if model_type in ("llava_next", "llava_onevision") else 0  # placeholders too
        parts += [5] + [IMAGE] * (picture.tokens + lines)  # a word between two pictures
        words -= 1 + lines
    ids = torch.tensor([parts + [5] * words])
    inputs: dict[str, Any] = {"input_ids": ids, **_pixels(model_type, pictures, sizes)}
    if model_type.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    if model_type in ("gemma3", "paligemma"):
        inputs["token_type_ids"] = (ids == IMAGE).long() if model_type == "gemma3" else torch.zeros_like(ids)
    return Asked(model, inputs, ids.shape[1])


def _pixels(model_type: str, pictures: list[Picture], sizes: list[tuple[int, int]]) -> dict[str, Tensor]:
    grids = [grid for picture in pictures for grid in picture.grids]
    if model_type.startswith("qwen"):
        patches = sum(down * across for down, across in grids)
        return {
            "pixel_values": torch.randn(patches, 3 * 2 * 49),
            "image_grid_thw": torch.tensor([(1, *g) for g in grids]),
        }
    images = torch.randn(len(grids), 3, 28, 28)
    if model_type in ("llava_next", "llava_onevision"):
        assert len(pictures) == 1 or all(len(picture.grids) == 1 for picture in pictures)
        several = {"batch_num_images": torch.tensor([len(pictures)])} if model_type == "llava_onevision" else {}
        shape = (len(pictures), -1)
        return {"pixel_values": images.unflatten(0, shape), "image_sizes": torch.tensor(sizes), **several}
    return {"pixel_values": images[None] if model_type in ("idefics3", "smolvlm") else images}

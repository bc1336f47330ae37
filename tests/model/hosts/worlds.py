"""A small random model of every host, and prompts with images for it, without a processor.

Every builder makes inputs for rows, each a list of pictures: (height, width) in units of a tile (28 pixels), empty for text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    Idefics3Config,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    MistralConfig,
    PaliGemmaConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
    SiglipVisionConfig,
    SmolVLMConfig,
)

IMAGE, VIDEO, START, END = 190, 191, 192, 193
TEXT: dict[str, Any] = dict(
    vocab_size=200, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
)  # fmt: skip
VISION: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7
)
PINPOINTS = [[28, 56], [56, 28], [56, 56]]
AXES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
QWEN = dict(image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END)
Rows = list[list[tuple[int, int]]]

SOME: Rows = [[(1, 1)], [], [(2, 1), (1, 2)]]


@dataclass
class World:
    """A host to test: how to make its config, its inputs, and what its family can do."""

    config: Callable[[], Any]
    inputs: Callable[[Any, Rows, torch.Generator], dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)


def text_config(kind: type, **more: Any) -> Any:
    """A decoder's config of a family."""
    return kind(**{**TEXT, **more})


def clip() -> CLIPVisionConfig:
    return CLIPVisionConfig(**VISION, projection_dim=16)


def siglip() -> SiglipVisionConfig:
    return SiglipVisionConfig(**VISION, vision_use_head=False)


def _llava(text: type, **more: Any) -> Callable[[], Any]:
    return lambda: LlavaConfig(
        vision_config=clip(), text_config=text_config(text, **more), image_token_index=IMAGE, image_seq_length=16
    )


def _text_and_pictures(rows: Rows, blocks: list[list[list[int]]]) -> dict[str, Tensor]:
    """Prompts of text and, for each picture, its block of ids; padded on the left."""
    prompts = []
    for number, row in enumerate(rows):
        ids = [1, 5 + number, 7]
        for picture in range(len(row)):
            ids += blocks[number][picture] + [30 + number + picture, 41]
        prompts.append(ids + [60 + number, 17, 23, 88, 9])
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def _plain(tokens: int, before: list[int], after: list[int]) -> Callable[[Any, Rows, torch.Generator], dict[str, Any]]:
    def build(model: Any, rows: Rows, draw: torch.Generator) -> dict[str, Any]:
        block = before + [IMAGE] * tokens + after
        inputs: dict[str, Any] = _text_and_pictures(rows, [[block for _ in row] for row in rows])
        pictures = sum(map(len, rows))
        if pictures:
            inputs["pixel_values"] = torch.randn(pictures, 3, 28, 28, generator=draw)
        return inputs

    return build


def _typed(build: Callable, prefix: bool) -> Callable[[Any, Rows, torch.Generator], dict[str, Any]]:
    def typed(model: Any, rows: Rows, draw: torch.Generator) -> dict[str, Any]:
        inputs = build(model, rows, draw)
        ids = inputs["input_ids"]
        inputs["token_type_ids"] = torch.zeros_like(ids) if prefix else (ids == IMAGE).long()
        return inputs

    return typed


def _anyres(model: Any, rows: Rows, draw: torch.Generator) -> dict[str, Any]:
    sizes = [(28 * h, 28 * w) for row in rows for h, w in row]
    if not sizes:
        return _text_and_pictures(rows, [[] for _ in rows])
    crops = [1 + (h // 28) * (w // 28) if (h, w) != (28, 28) else 3 for h, w in sizes]
    pixels = torch.randn(len(sizes), max(crops), 3, 28, 28, generator=draw)
    sizes = torch.tensor(sizes)
    with torch.no_grad():
        lengths = [len(part) for part in model.model.get_image_features(pixels, sizes).pooler_output]
    ends, blocks = iter(lengths), []
    for row in rows:
        blocks.append([[IMAGE] * next(ends) for _ in row])
    return {**_text_and_pictures(rows, blocks), "pixel_values": pixels, "image_sizes": sizes}


def _qwen(model: Any, rows: Rows, draw: torch.Generator) -> dict[str, Any]:
    blocks = [[[START] + [IMAGE] * (4 * h * w) + [END] for h, w in row] for row in rows]
    inputs: dict[str, Any] = _text_and_pictures(rows, blocks)
    grids = [(1, 4 * h, 4 * w) for row in rows for h, w in row]
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    if grids:
        inputs["image_grid_thw"] = torch.tensor(grids)
        inputs["pixel_values"] = torch.randn(sum(t * h * w for t, h, w in grids), 3 * 2 * 49, generator=draw)
    return inputs


def _internvl(model: Any, rows: Rows, draw: torch.Generator) -> dict[str, Any]:
    blocks = [[[START] + [IMAGE] * (4 * h * w) + [END] for h, w in row] for row in rows]
    inputs: dict[str, Any] = _text_and_pictures(rows, blocks)
    tiles = sum(h * w for row in rows for h, w in row)
    if tiles:
        inputs["pixel_values"] = torch.randn(tiles, 3, 28, 28, generator=draw)
    return inputs


def _tiled(model: Any, rows: Rows, draw: torch.Generator) -> dict[str, Any]:
    """Tiles with a mark of their place before each, the whole picture last, as SmolVLM's processor writes them."""
    fake, place, whole = 180, 181, 182
    blocks, counts = [], []
    for row in rows:
        blocks.append([])
        counts.append(0)
        for h, w in row:
            tiles = h * w if h * w > 1 else 0
            ids: list[int] = []
            for _ in range(tiles):
                ids += [fake, place] + [IMAGE] * 4
            blocks[-1].append(ids + [fake, whole] + [IMAGE] * 4 + [fake])
            counts[-1] += tiles + 1
    inputs: dict[str, Any] = _text_and_pictures(rows, blocks)
    if max(counts):
        pixels = torch.zeros(len(rows), max(counts), 3, 28, 28)
        for row, count in enumerate(counts):
            pixels[row, :count] = torch.randn(count, 3, 28, 28, generator=draw)
        inputs["pixel_values"] = pixels
    return inputs


def _qwen_vision(**more: Any) -> dict[str, Any]:
    shared = dict(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        patch_size=7,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )
    return {**shared, **more}


GEMMA3 = dict(
    head_dim=8, query_pre_attn_scalar=8, sliding_window=12,
    layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
)  # fmt: skip

WORLDS: dict[str, World] = {
    "llava": World(_llava(LlamaConfig), _plain(16, [], [])),
    "llava-mistral": World(_llava(MistralConfig, sliding_window=None), _plain(16, [], [])),
    "llava-mistral-window": World(_llava(MistralConfig, sliding_window=12), _plain(16, [], [])),
    "llava-qwen2": World(_llava(Qwen2Config), _plain(16, [], [])),
    "llava-qwen3": World(_llava(Qwen3Config, head_dim=8), _plain(16, [], [])),
    "llava_next": World(
        lambda: LlavaNextConfig(
            vision_config=clip(), text_config=text_config(MistralConfig), image_token_index=IMAGE,
            image_grid_pinpoints=PINPOINTS,
        ),
        _anyres,
    ),
    "llava_onevision": World(
        lambda: LlavaOnevisionConfig(
            vision_config=siglip(), text_config=text_config(Qwen2Config), image_token_index=IMAGE, video_token_index=VIDEO,
            image_grid_pinpoints=PINPOINTS, vision_aspect_ratio="anyres_max_9",
        ),
        _anyres,
    ),
    "qwen2_vl": World(
        lambda: Qwen2VLConfig(
            vision_config=dict(
                depth=2, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2, patch_size=7, spatial_merge_size=2,
                temporal_patch_size=2,
            ),
            text_config={**TEXT, "rope_parameters": AXES}, **QWEN,
        ),
        _qwen,
    ),
    "qwen2_5_vl": World(
        lambda: Qwen2_5_VLConfig(
            vision_config=_qwen_vision(out_hidden_size=32, window_size=28, fullatt_block_indexes=[1]),
            text_config={**TEXT, "rope_parameters": AXES}, **QWEN,
        ),
        _qwen,
    ),
    "qwen3_vl": World(
        lambda: Qwen3VLConfig(
            vision_config=_qwen_vision(
                depth=4, out_hidden_size=32, num_position_embeddings=64, deepstack_visual_indexes=[0, 1, 2]
            ),
            text_config={**TEXT, "head_dim": 8, "rope_parameters": AXES}, **QWEN,
        ),
        _qwen,
    ),
    "internvl": World(
        lambda: InternVLConfig(
            vision_config={**VISION, "image_size": [28, 28], "patch_size": [7, 7]}, text_config=text_config(Qwen2Config),
            image_token_id=IMAGE, image_seq_length=4,
        ),
        _internvl,
    ),
    "smolvlm": World(
        lambda: SmolVLMConfig(
            vision_config=VISION, text_config=text_config(LlamaConfig), image_token_id=IMAGE, scale_factor=2, pad_token_id=0
        ),
        _tiled,
    ),
    "idefics3": World(
        lambda: Idefics3Config(
            vision_config=VISION, text_config=text_config(LlamaConfig), image_token_id=IMAGE, scale_factor=2, pad_token_id=0
        ),
        _tiled,
    ),
    "gemma3": World(
        lambda: Gemma3Config(
            vision_config=siglip(), text_config=text_config(Gemma3TextConfig, **GEMMA3), mm_tokens_per_image=16,
            image_token_index=IMAGE, boi_token_index=START, eoi_token_index=END,
        ),
        _typed(_plain(16, [START], [END]), prefix=False),
    ),
    "paligemma": World(
        lambda: PaliGemmaConfig(
            vision_config=siglip(), text_config=text_config(GemmaConfig, head_dim=8), image_token_index=IMAGE,
            vocab_size=200, projection_dim=32, hidden_size=32,
        ),
        _typed(_plain(16, [], []), prefix=True),
    ),
    "paligemma2": World(
        lambda: PaliGemmaConfig(
            vision_config=siglip(),
            text_config=text_config(Gemma2Config, head_dim=8, query_pre_attn_scalar=8, sliding_window=12),
            image_token_index=IMAGE, vocab_size=200, projection_dim=32, hidden_size=32,
        ),
        _typed(_plain(16, [], []), prefix=True),
    ),
}  # fmt: skip


def build(name: str, seed: int = 0) -> Any:
    """A host's model with weights that make attention sharp enough to test."""
    model = AutoModelForImageTextToText.from_config(WORLDS[name].config()).eval()
    draw = torch.Generator().manual_seed(seed)
    around = 0.0 if name in ("gemma3", "paligemma", "paligemma2") else 1.0
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1 and "norm" in key and key.endswith("weight"):
                parameter.copy_(around + 0.2 * torch.randn(parameter.shape, generator=draw))
            else:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = list(range(180, 200))
    return model


def inputs_of(name: str, model: Any, rows: Rows, seed: int = 1) -> dict[str, Any]:
    """A batch of prompts for a host."""
    return WORLDS[name].inputs(model, rows, torch.Generator().manual_seed(seed))

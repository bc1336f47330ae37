"""Visual tokens from a picture's size, against what transformers' own processors make of pictures, over many sizes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from llava.cost import from_config, preset, preset_names
from llava.cost.families.base import Picture

RANDOM = np.random.default_rng(0)
SIZES = [
    (336, 336),
    (720, 1280),
    (1280, 720),
    (1, 150),
    (28, 28),
    (27, 2000),
    (4000, 3000),
    (448, 897),
    (511, 513),
    (37, 41),
]
SIZES += [(int(height), int(width)) for height, width in np.exp(RANDOM.uniform(3, 8.3, (150, 2)))]
SIZES = [
    (height, width) for height, width in SIZES if max(height, width) <= 150 * min(height, width)
]  # (height, width)


def of(host: str, height: int, width: int) -> Picture:
    return preset(host).family.picture(height, width)


@pytest.mark.parametrize("host", ["llava-1.5-7b", "paligemma-3b", "gemma3-4b"])
def test_one_square_whatever_the_picture(host):
    wanted = {"llava-1.5-7b": (576, 0), "paligemma-3b": (256, 0), "gemma3-4b": (256, 4)}[host]
    family = preset(host).family
    assert {(seen.tokens, seen.separators) for seen in (family.picture(*size) for size in SIZES)} == {wanted}


@pytest.mark.parametrize(
    ("host", "edges", "patch"), [("qwen2-vl-7b", (3136, 12845056), 14), ("qwen3-vl-4b", (65536, 16777216), 16)]
)
def test_qwen(host, edges, patch):
    size = dict(zip(("shortest_edge", "longest_edge"), edges))
    processor, family = Qwen2VLImageProcessorPil(size=size, patch_size=patch), preset(host).family
    for height, width in SIZES:
        seen = family.picture(height, width)
        assert seen.patches == 4 * seen.tokens == processor.get_number_of_image_patches(height, width)
    image = Image.new("RGB", (300, 180))
    grid = processor(image, return_tensors="np")["image_grid_thw"].tolist()[0]
    assert of(host, 180, 300).grids == (tuple(grid[1:]),)


def test_llava_next():
    family = preset("llava-1.6-vicuna-7b").family
    processor = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=family.config.image_grid_pinpoints),
        patch_size=14,
        num_additional_image_tokens=1,
    )
    processor._get_unpadded_features = LlavaNextProcessor._get_unpadded_features.__get__(processor)
    for height, width in SIZES:
        seen = family.picture(height, width)
        wanted = LlavaNextProcessor._get_number_of_features(processor, height, width, 336, 336) - 1
        assert seen.tokens + seen.separators == wanted, (height, width)
    assert (of("llava-1.6-vicuna-7b", 672, 672).tokens, of("llava-1.6-vicuna-7b", 672, 672).separators) == (2880, 48)


def test_llava_onevision():
    family = preset("llava-onevision-qwen2-7b").family
    processor = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=family.config.image_grid_pinpoints),
        num_image_tokens=729,
        vision_aspect_ratio="anyres_max_9",
    )
    processor._get_unpadded_features = LlavaOnevisionProcessor._get_unpadded_features.__get__(processor)
    for height, width in SIZES:
        seen = family.picture(height, width)
        wanted = LlavaOnevisionProcessor._get_number_of_features(processor, height, width, 384, 384)
        assert seen.tokens + seen.separators == wanted, (height, width)
    several = family.picture(2000, 3000, alone=False)
    assert (several.tokens, several.separators, several.grids) == (729, 1, ((27, 27),))


def test_internvl():
    processor = GotOcr2ImageProcessorPil(crop_to_patches=True, size={"height": 448, "width": 448})
    family = preset("internvl3-8b").family
    for height, width in SIZES:
        tiles = processor.get_number_of_image_patches(height, width)
        seen = family.picture(height, width)
        assert (seen.tokens, seen.separators, len(seen.grids)) == (256 * tiles, 2, tiles)
    fewer = preset("internvl3-8b", {"max_patches": 4}).family
    assert max(len(fewer.picture(*size).grids) for size in SIZES) == 5


@pytest.mark.parametrize("processor_class", [Idefics3ImageProcessorPil, SmolVLMImageProcessorPil])
def test_idefics3_and_smolvlm(processor_class):
    """The processor itself runs, on tiles so small that it is quick."""
    edges = {"longest_edge": 64, "tile": 16}
    processor = processor_class(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 16}, return_row_col_info=True
    )
    family = preset("smolvlm-256m" if processor_class is Idefics3ImageProcessorPil else "smolvlm-2.2b", edges).family
    per_tile = family.picture(64, 64).tokens // 17
    for height, width in SIZES[:60]:
        image = Image.new("RGB", (width, height))
        found = processor([image], return_tensors="np", return_row_col_info=True)
        tiles, (rows,), (columns,) = found["pixel_values"].shape[1], *found["rows"], *found["cols"]
        seen = family.picture(height, width)
        assert len(seen.grids) == tiles and seen.tokens == tiles * per_tile, (height, width)
        words = get_image_prompt_string(rows, columns, 1, "<f>", "<i>", "<g>")
        assert seen.separators == words.count("<") + words.count("\n") - words.count("<i>")


def test_a_picture_that_a_processor_refuses_is_refused():
    with pytest.raises(ValueError, match="aspect ratio"):
        of("qwen2.5-vl-7b", 10, 5000)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_opens_and_its_sizes_belong_together(name):
    host = preset(name)
    text, seen = host.family.text, host.family.picture(720, 1280)
    assert seen.tokens >= 64 and seen.grids
    assert text.hidden_size % text.num_attention_heads == 0 and text.num_attention_heads % text.num_key_value_heads == 0
    merged = getattr(host.family, "merged_width", None)
    assert merged in (None, text.hidden_size)


def test_settings_beside_a_config_are_read(tmp_path):
    family = preset("qwen2.5-vl-7b").family
    family.config.save_pretrained(tmp_path)
    assert from_config(tmp_path).family.picture(2000, 2000).tokens > 1280
    content = {"size": {"shortest_edge": 3136, "longest_edge": 1003520}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    assert from_config(tmp_path).family.picture(2000, 2000).tokens <= 1280
    assert from_config(tmp_path / "config.json", {"max_pixels": 200704}).family.picture(2000, 2000).tokens <= 256
    with pytest.raises(ValueError, match="max_pixel: it knows min_pixels, max_pixels; did you mean 'max_pixels'"):
        from_config(tmp_path, {"max_pixel": 200704})

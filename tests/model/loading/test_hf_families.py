"""llava-hf's layout over Mistral and Qwen2, with CLIP's and SigLIP's towers: transformers' own class gives the same logits."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from llava.model.builder import load_pretrained_model
from llava.model.convert import to_llava_hf
from tests.families import draw, write_llava, write_tokenizer, write_tower

SIZES = {
    "vocab_size": 430, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
TEXTS = {"mistral": MistralConfig(**SIZES, sliding_window=None), "qwen": Qwen2Config(**SIZES)}
TOWERS = {"clip": CLIPVisionConfig(**VISION, projection_dim=16), "siglip": SiglipVisionConfig(**VISION)}


@pytest.mark.parametrize("text", list(TEXTS))
@pytest.mark.parametrize(
    ("tower", "strategy", "layer"), [("clip", "default", -2), ("siglip", "full", -1), ("siglip", "full", -2)]
)
def test_llava(tmp_path, text, tower, strategy, layer):
    theirs = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=TOWERS[tower], text_config=TEXTS[text], image_token_index=421, image_seq_length=16,
            vision_feature_select_strategy=strategy, vision_feature_layer=layer,
        )
    ).eval()  # fmt: skip
    draw(theirs)
    theirs.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, text)
    _, ours, _, _ = load_pretrained_model(tmp_path, device="cpu")
    pixels = torch.randn(2, 3, 28, 28)
    prompt = [1, 7, -200, 9, 11, -200, 5]
    expanded = [token for part in prompt for token in ([421] * 16 if part == -200 else [part])]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([expanded]), pixel_values=pixels).logits
        actual = ours(input_ids=torch.tensor([prompt]), images=pixels).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_llava_next_over_mistral(tmp_path):
    theirs = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=TOWERS["clip"], text_config=TEXTS["mistral"], image_token_index=421,
            image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        )
    ).eval()  # fmt: skip
    draw(theirs)
    theirs.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, "mistral")
    _, ours, _, _ = load_pretrained_model(tmp_path, device="cpu")
    pixels, sizes = torch.randn(1, 3, 3, 28, 28), torch.tensor([[28, 56]])  # (height, width)
    with torch.no_grad():
        count = len(theirs.model.get_image_features(pixels, sizes).pooler_output[0])
        ids = torch.tensor([[1, 7, *[421] * count, 5]])
        expected = theirs(input_ids=ids, pixel_values=pixels, image_sizes=sizes).logits
        actual = ours(input_ids=torch.tensor([[1, 7, -200, 5]]), images=pixels, image_sizes=[(56, 28)]).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mistral", "qwen", "llama3"])
def test_converted_to_it(tmp_path, kind):
    folder = write_llava(tmp_path / "own", kind)
    to_llava_hf(folder, tmp_path / "hf", dtype=torch.float32)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf").eval()
    _, ours, _, _ = load_pretrained_model(folder, device="cpu")
    pixels, image = torch.randn(1, 3, 32, 32), theirs.config.image_token_index
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([[5, *[image] * 64, 7]]), pixel_values=pixels).logits
        actual = ours(torch.tensor([[5, -200, 7]]), images=pixels).logits
    torch.testing.assert_close(actual, expected[..., : actual.shape[-1]], atol=1e-4, rtol=1e-4)
    assert type(theirs.config.text_config).__name__.lower().startswith(kind[:5])


def test_a_siglip_is_not_converted(tmp_path):
    write_tower(tmp_path / "own" / "tower", "siglip")
    folder = write_llava(tmp_path / "own", "qwen", "tower")
    with pytest.raises(ValueError, match="is a SigLIP; only models with a CLIP"):
        to_llava_hf(folder, tmp_path / "hf")

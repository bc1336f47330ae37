"""What users of FastV and HiMAP write around a model that they loaded plainly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model

ROOT = Path(__file__).parents[1]
WORLD = ROOT / "tests/data/parity_llava15"
SYSTEM = 8  # positions in front of the picture in this prompt


@pytest.fixture
def plain():
    """A model without a plan, and a function that asks it."""
    tokenizer, model, image_processor, _ = load_pretrained_model(WORLD / "checkpoint", None, "llava", device="cpu")
    image = Image.open(WORLD / "image0.png")
    ids = tokenizer_image_token("USER: <image>\nWhat is it? ASSISTANT:", tokenizer, return_tensors="pt")[None]
    pixels = process_images([image], image_processor, model.config)

    def ask(**options):
        return model.generate(
            ids, images=pixels, image_sizes=[image.size], do_sample=False, max_new_tokens=4, **options
        )

    return model, ask


def per_layer(model) -> list[int]:
    return model.model.last_visual_per_layer[:, 0].tolist()


def test_fastv_on_and_off_again(plain):
    model, ask = plain
    dense = ask()
    model.config.use_fast_v = True
    model.config.fast_v_sys_length = SYSTEM
    model.config.fast_v_image_token_length = 576
    model.config.fast_v_attention_rank = 9
    model.config.fast_v_agg_layer = 2
    model.model.reset_fastv()
    ask()
    assert per_layer(model) == [576, 576] + [9] * (model.config.num_hidden_layers - 2)
    model.config.use_fast_v = False
    model.model.reset_fastv()
    assert torch.equal(ask(), dense) and set(per_layer(model)) == {576}


def test_fastv_with_attentions_asked_for(plain):
    model, ask = plain
    model.config.use_fast_v = True
    model.config.fast_v_attention_rank, model.config.fast_v_agg_layer = 9, 2
    model.model.reset_fastv()
    silent = ask()
    told = ask(output_attentions=True, return_dict_in_generate=True)
    assert torch.equal(told.sequences, silent) and per_layer(model)[2] == 9


def test_himap_with_pruning_off_then_on(plain):
    model, ask = plain
    dense = ask()
    model.config.use_hmap_v = False
    model.model.reset_hmapv()
    assert torch.equal(ask(), dense)
    model.config.use_hmap_v = True
    model.config.hmap_v_sys_length, model.config.hmap_v_img_length = SYSTEM, 576
    model.config.hmap_v_attn_txt_layer, model.config.hmap_v_attn_txt_rank = 1, 8
    model.config.hmap_v_attn_img_layer, model.config.hmap_v_attn_img_rank = 2, 4
    model.model.reset_hmapv()
    ask()
    assert per_layer(model)[:3] == [576, 8, 4]


def test_a_tower_patched_by_its_users_is_called_with_pictures_alone(plain, monkeypatch):
    model, ask = plain
    tower, calls = model.get_vision_tower(), []
    dense, forward = ask(), tower.forward

    def patched(images):
        calls.append(images.shape)
        return forward(images)

    monkeypatch.setattr(tower, "forward", patched)
    assert torch.equal(ask(), dense) and len(calls) == 1

"""The programs that the documents print, run as they are written, on a small checkpoint."""

from __future__ import annotations

import pytest
import torch

from llava.model.builder import load_pretrained_model
from llava.model.language_model.himap_condensation import HimapCondensation_LlamaModel
from llava.model.language_model.llava_llama import (
    LlavaLlamaForCausalLM_CustomSelection,
    LlavaLlamaForCausalLM_HimapCondensation,
    LlavaLlamaModel_CustomSelection,
)
from llava.reduction import reduced
from llava.utils import disable_torch_init
from tests.conftest import PARITY15, World
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def asked(llava15):
    return llava15.inputs(llava15.cases()[0])


def test_custom_selection_in_code(asked):
    disable_torch_init()
    tokenizer, model, image_processor, context_len = load_pretrained_model(
        model_path=PARITY15 / "checkpoint",
        model_base=None,
        model_name="llava-v1.5-7b",
        use_custom_selection=True,
    )
    assert isinstance(model, LlavaLlamaForCausalLM_CustomSelection)
    assert isinstance(model.model, LlavaLlamaModel_CustomSelection)

    model.config.use_custom_selection = True
    model.config.custom_kept_tokens = 8
    model.config.custom_selection_method = "fps"
    model.config.custom_agg_layer = 2
    model.config.custom_temperature = 0.1

    model.model.reset_custom_selection()

    output = model.generate(
        asked["input_ids"], images=asked["images"], image_sizes=asked["image_sizes"], max_new_tokens=4
    )
    assert output.shape[0] == 1
    selected_positions = model.model.last_selected_positions
    global_indices = model.model.last_gen_kept_indices
    assert len(selected_positions) == 8 and 0 <= selected_positions.min() and selected_positions.max() < 576
    image_begins = int((asked["input_ids"][0] == -200).nonzero()[0, 0])
    assert (global_indices - selected_positions == image_begins).all()

    model.config.custom_selection_method = "tome"
    model.generate(asked["input_ids"], images=asked["images"], image_sizes=asked["image_sizes"], max_new_tokens=1)
    assert model.model.last_selected_positions.tolist() != selected_positions.tolist()


def test_condensation_in_code():
    config = tiny_config()
    config.use_token_condensation = True
    config.condensation_strategy = "connectivity"
    config.condensation_num_heads = 8

    model = HimapCondensation_LlamaModel(config)

    config.use_hmap_v = True
    config.hmap_v_attn_txt_layer = 2
    config.hmap_v_attn_txt_rank = 10
    config.hmap_v_attn_img_layer = 4
    config.hmap_v_attn_img_rank = 5
    config.hmap_v_sys_length, config.hmap_v_img_length = 5, 24
    with torch.no_grad():
        out = model(input_ids=torch.randint(3, 90, (1, 40)))
    assert out.last_hidden_state.shape[1] == 40 - 24 + 5
    assert model.last_visual_per_layer[:, 0].tolist() == [24, 24, 10, 10, 5, 5]


@pytest.mark.parametrize(
    ("knobs", "kind"),
    [
        (
            {"use_token_condensation": True, "condensation_layers": [2], "condensation_ranks": [9]},
            LlavaLlamaForCausalLM_HimapCondensation,
        ),
        (
            {"use_hmap_v": True, "hmap_v_attn_txt_layer": 2, "hmap_v_attn_txt_rank": 9},
            LlavaLlamaForCausalLM_HimapCondensation,
        ),
        ({"use_custom_selection": True}, LlavaLlamaForCausalLM_CustomSelection),
    ],
)
def test_a_flag_loads_the_documented_class_and_untrained_modules_are_the_identity(knobs, kind, asked):
    world = World.load(PARITY15, **knobs)
    assert isinstance(world.model, kind)
    with torch.no_grad():
        own = world.model(**asked).logits[0, -1]
        plan = "+".join(map(str, world.model.model.plan()))
        with reduced(World.load(PARITY15).model, plan) as plain:
            assert torch.equal(plain(**asked).logits[0, -1], own) or torch.allclose(
                plain(**asked).logits[0, -1], own, rtol=0, atol=1e-5
            )

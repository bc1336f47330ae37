"""The extended configuration: what it accepts, refuses and keeps."""

from __future__ import annotations

import pytest

from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.knobs import plan_from_config
from llava.model.language_model.reduction_knobs import REDUCTION_KNOBS
from tests.tiny import tiny_config


def test_every_documented_knob_is_there():
    documented = """use_fast_v fast_v_sys_length fast_v_image_token_length fast_v_attention_rank fast_v_agg_layer
        fast_v_inplace fast_v_token_selection_method fast_v_weighted_alpha use_hmap_v hmap_v_sys_length
        hmap_v_img_length hmap_v_attn_txt_layer hmap_v_attn_txt_rank hmap_v_attn_img_layer hmap_v_attn_img_rank
        cut_off_layer use_token_condensation condensation_strategy condensation_num_heads use_custom_selection
        custom_sys_length custom_image_token_length custom_kept_tokens custom_agg_layer custom_selection_method
        custom_temperature"""
    assert set(documented.split()) <= set(REDUCTION_KNOBS)
    config = LlamaConfig()
    assert config.fast_v_weighted_alpha == 0.5 and config.fast_v_sys_length is None


def test_it_survives_json(tmp_path):
    tiny_config(use_fast_v=True, fast_v_attention_rank=9, fast_v_weighted_alpha=1).save_pretrained(tmp_path)
    again = LlamaConfig.from_pretrained(tmp_path)
    assert str(plan_from_config(again)[0]) == "fastv@2:9"


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"fast_v_atention_rank": 3}, "did you mean 'fast_v_attention_rank'"),
        ({"use_fastv": True}, "did you mean 'use_fast_v'"),
        ({"use_fast_v": True, "fast_v_attention_rank": 9, "use_custom_selection": True}, "both set"),
    ],
)
def test_wrong_knobs_raise_when_the_config_is_made(knobs, said):
    with pytest.raises(ValueError, match=said):
        tiny_config(**knobs)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"use_fast_v": True}, "fast_v_attention_rank is None"),
        ({"use_hmap_v": True}, "use_hmap_v=True but no stage is set"),
        ({"use_token_condensation": True, "use_hmap_v": True}, "use_token_condensation=True but no layer is given"),
        ({"use_fast_v": True, "fast_v_attention_rank": 9, "reduction": "random:3"}, "both set"),
        ({"use_fast_v": True, "fast_v_attention_rank": 9, "fast_v_token_selection_method": "best"}, "heads='best'"),
        ({"use_fast_v": True, "fast_v_attention_rank": 9, "fast_v_agg_layer": 0}, "layer=0"),
        ({"use_fast_v": True, "fast_v_attention_rank": -1}, "keep=-1"),
        ({"reduction": "fasv@2:3"}, "did you mean 'fastv'"),
    ],
)
def test_wrong_plans_raise_when_the_plan_is_made(knobs, said):
    with pytest.raises(ValueError, match=said):
        plan_from_config(tiny_config(**knobs))


def test_a_mistyped_knob_assigned_later_is_not_silent():
    config = tiny_config()
    config.fast_v_attention_ranks = 3
    with pytest.raises(ValueError, match="did you mean 'fast_v_attention_rank'"):
        plan_from_config(config)

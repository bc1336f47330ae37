"""HiMAP and condensation as documents 000 and HiMAP's authors use them: attributes, levels, cut-off, modules, errors."""

from __future__ import annotations

import pytest
import torch

from llava.model.language_model.himap import Himap_LlamaModel
from llava.model.language_model.himap_condensation import HimapCondensation_LlamaModel
from llava.reduction import reduced
from llava.reduction.aggregate import IdentityLinear
from tests.tiny import prompt, tiny_config, tiny_model

LEVELS = {"hmap_v_attn_txt_layer": 2, "hmap_v_attn_txt_rank": 12, "hmap_v_attn_img_layer": 4, "hmap_v_attn_img_rank": 5}
HIMAP = {"use_hmap_v": True, **LEVELS}
CONDENSE = {"use_token_condensation": True, "use_hmap_v": True, **LEVELS}


def run(model, batch):
    with torch.no_grad():
        return model(**batch.inputs)


def per_layer(model, batch) -> list[int]:
    run(model, batch)
    return model.last_visual_per_layer[:, 0].tolist()


@pytest.fixture
def batch():
    return prompt((5, 24, 9), (3, 24, 6))


@pytest.mark.parametrize(("kind", "knobs"), [(Himap_LlamaModel, HIMAP), (HimapCondensation_LlamaModel, CONDENSE)])
def test_two_levels_and_a_cut_off_shorten_the_sequence(kind, knobs, batch):
    model = tiny_model(kind, **knobs)
    assert per_layer(model, batch) == [24, 24, 12, 12, 5, 5]
    first, second = ({*record.kept_origins(0, text=False).tolist()} for record in model.last_trace)
    assert second < first  # both in the numbering of the whole prompt
    model.cut_off_layer = 5
    assert per_layer(model, batch) == [24, 24, 12, 12, 5, 0]
    model.reset_hmapv()
    assert model.last_trace == []


@pytest.mark.parametrize(
    ("layers", "cut", "expected"),
    [
        ((4, 2), None, [24, 24, 5, 5, 5, 5]),  # the image's stage first: the text's then keeps what is left
        ((2, 4), 0, [24, 24, 12, 12, 5, 5]),
        ((2, 4), 6, [24, 24, 12, 12, 5, 5]),  # at the depth or beyond: never
        ((2, 4), 4, [24, 24, 12, 12, 0, 0]),  # at a stage's layer the cut-off wins
        ((2, 4), 3, [24, 24, 12, 0, 0, 0]),
        ((2, 4), 1, [24, 0, 0, 0, 0, 0]),
    ],
)
def test_any_order_of_the_three_layers(batch, layers, cut, expected):
    text, image = layers
    ranks = (12, 5) if text < image else (5, 5)
    model = tiny_model(
        Himap_LlamaModel,
        use_hmap_v=True,
        hmap_v_attn_txt_layer=text,
        hmap_v_attn_txt_rank=ranks[0],
        hmap_v_attn_img_layer=image,
        hmap_v_attn_img_rank=ranks[1],
        cut_off_layer=cut,
    )
    assert per_layer(model, batch) == expected


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"use_hmap_v": True}, "no stage is set"),
        ({**HIMAP, "hmap_v_attn_img_rank": 13}, r"hmap_v_attn_\*_rank=\[12, 13\].*must not grow with depth"),
        ({**HIMAP, "hmap_v_attn_img_layer": 2}, r"layer=\[2, 2\] must go up"),
        (
            {**HIMAP, "hmap_v_attn_img_rank": None},
            "hmap_v_attn_img_layer=4 and hmap_v_attn_img_rank=None belong together",
        ),
        ({**HIMAP, "hmap_v_attn_txt_layer": 0}, "hmap_v_attn_txt_layer: layer=0"),
        ({**HIMAP, "hmap_v_attn_txt_rank": -3}, "must not grow|hmap_v_attn_txt_rank: keep=-3"),
        ({**HIMAP, "use_fast_v": True, "fast_v_attention_rank": 3}, "use_fast_v and use_hmap_v are both set"),
        ({"use_token_condensation": True}, "no layer is given"),
        ({**CONDENSE, "condensation_strategy": "kmeans"}, "condensation_strategy: strategy='kmeans' is unknown"),
        ({**CONDENSE, "condensation_strategy": ["fps"]}, "condensation_strategy=.* has 1 entries for 2 stages"),
        ({**CONDENSE, "condensation_layers": [2, 3]}, "condensation_layers=.* belong together"),
        ({**CONDENSE, "condensation_layers": [2, 3], "condensation_ranks": [4, 9]}, "must not grow with depth"),
        ({**CONDENSE, "condensation_layers": [2, 3], "condensation_ranks": [9, 0]}, "condensation_ranks: keep=0"),
        ({**CONDENSE, "condensation_cover": 1.5}, "condensation_cover: cover=1.5"),
    ],
)
def test_bad_knobs_name_the_knob_and_the_rule(batch, knobs, message):
    with pytest.raises(ValueError, match=message):
        run(tiny_model(HimapCondensation_LlamaModel, **knobs), batch)


def test_heads_must_divide_the_width(batch):
    with pytest.raises(ValueError, match="num_heads=5 must be a whole number that divides the width 64"):
        tiny_model(HimapCondensation_LlamaModel, **CONDENSE, condensation_num_heads=5)
    model = tiny_model(HimapCondensation_LlamaModel, **CONDENSE)
    model.condensation_num_heads = 5
    with pytest.raises(ValueError, match="condensation_num_heads=5 must divide the width hidden_size=64"):
        run(model, batch)


def identity(model):
    """tiny_model draws all matrices anew; put the condensation modules back to their untrained state."""
    for module in model.modules():
        if isinstance(module, IdentityLinear):
            module.reset_parameters()
    return model


def test_untrained_modules_are_the_parameter_free_method(batch):
    model = identity(tiny_model(HimapCondensation_LlamaModel, **CONDENSE))
    assert len(model.condensation) == 2
    own = run(model, batch).last_hidden_state
    with reduced(model, "condensation@2:12+condensation@4:5"):
        free = run(model, batch).last_hidden_state
    torch.testing.assert_close(own, free, rtol=0, atol=1e-6)
    with reduced(model, "condensation@2:12,heads=1+condensation@4:5,heads=1"):
        one_head = run(model, batch).last_hidden_state
    model.condensation_num_heads = 1  # the knob is live
    torch.testing.assert_close(run(model, batch).last_hidden_state, one_head, rtol=0, atol=1e-6)
    assert not torch.equal(one_head, own)


def test_modules_survive_loading_without_weights_and_are_saved_with_them(tmp_path, batch):
    tiny_model(Himap_LlamaModel).save_pretrained(tmp_path / "plain")
    loaded, info = HimapCondensation_LlamaModel.from_pretrained(
        tmp_path / "plain", output_loading_info=True, **CONDENSE
    )
    assert not info["missing_keys"]  # the identity is how they begin: nothing to report
    eye = torch.eye(64)
    weights = [parameter for parameter in loaded.condensation.parameters()]
    assert len(weights) == 8 and all(torch.equal(weight, eye) for weight in weights)
    with torch.no_grad():
        weights[0].mul_(2)
    loaded.save_pretrained(tmp_path / "trained")
    again = HimapCondensation_LlamaModel.from_pretrained(tmp_path / "trained")
    assert torch.equal(again.condensation[0].q_proj.weight, 2 * eye)
    assert torch.equal(again.condensation[1].q_proj.weight, eye)
    torch.testing.assert_close(run(again, batch).last_hidden_state, run(loaded, batch).last_hidden_state)


def test_any_number_of_levels_with_a_strategy_each(batch):
    knobs = {"condensation_layers": [1, 3, 5], "condensation_ranks": [0.5, 8, 2]}
    model = tiny_model(
        HimapCondensation_LlamaModel,
        use_token_condensation=True,
        condensation_strategy=["fps", "connectivity", "tome"],
        **knobs,
    )
    assert per_layer(model, batch) == [24, 12, 12, 8, 8, 2]
    assert [stage.reducer.strategy for stage in model.plan()] == ["fps", "connectivity", "tome"]


def test_switched_on_after_building_it_condenses_without_modules(batch):
    model = HimapCondensation_LlamaModel(tiny_config())
    for name, value in CONDENSE.items():
        setattr(model.config, name, value)
    assert per_layer(model, batch) == [24, 24, 12, 12, 5, 5]
    model.config.condensation_layers, model.config.condensation_ranks = [3], [4]
    assert per_layer(model, batch) == [24, 24, 24, 4, 4, 4]


def test_other_stages_than_it_was_built_for_need_other_modules(batch):
    model = tiny_model(HimapCondensation_LlamaModel, **CONDENSE)
    model.config.condensation_layers, model.config.condensation_ranks = [3], [4]
    with pytest.raises(ValueError, match="1 condensation stages but the model was built with 2 modules"):
        run(model, batch)


def test_only_the_modules_can_be_trained(batch):
    model = tiny_model(HimapCondensation_LlamaModel, **CONDENSE)
    model.requires_grad_(False)
    model.condensation.requires_grad_(True)
    model(**batch.inputs, use_cache=False).last_hidden_state[:, -1].square().sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert {name for name, grad in grads.items() if grad is not None} == {
        f"condensation.{stage}.{part}_proj.weight" for stage in (0, 1) for part in "qkvo"
    }
    assert all(grad.abs().sum() > 0 for grad in grads.values() if grad is not None)


def test_a_span_typed_by_hand_must_agree(batch):
    model = tiny_model(Himap_LlamaModel, **HIMAP, hmap_v_sys_length=6, hmap_v_img_length=24)
    run(model, batch)
    assert model.last_trace[0].remarks == ("hmap_v_sys_length=6 but the prompt says 3, 5, which is used",)
    model.hmap_v_img_length = 23
    with pytest.raises(ValueError, match="hmap_v_img_length=23 but the prompt says 24"):
        run(model, batch)


def test_layers_without_ranks_build_the_modules_that_the_ranks_will_need(batch):
    knobs = {name: value for name, value in CONDENSE.items() if "rank" not in name}
    model = identity(tiny_model(HimapCondensation_LlamaModel, **knobs))
    assert len(model.condensation) == 2
    with pytest.raises(ValueError, match="belong together"):
        run(model, batch)
    model.hmap_v_attn_txt_rank, model.hmap_v_attn_img_rank = 12, 5
    assert per_layer(model, batch) == [24, 24, 12, 12, 5, 5]

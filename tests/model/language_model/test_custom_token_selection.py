"""Custom token selection as document 001 uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llava.model.language_model.custom_token_selection import (
    CustomSelection_LlamaModel,
    CustomTokenSelection_LlamaModel,
)
from tests.tiny import prompt, tiny_model

KNOBS = {"use_custom_selection": True, "custom_kept_tokens": 6}


@pytest.fixture
def batch():
    return prompt((5, 24, 9), (3, 24, 6))


@pytest.fixture
def model():
    return tiny_model(CustomTokenSelection_LlamaModel, **KNOBS)


def run(model, batch):
    with torch.no_grad():
        return model(**batch.inputs)


def test_both_names_are_one_class():
    assert CustomSelection_LlamaModel is CustomTokenSelection_LlamaModel


def test_the_documented_attributes(model, batch):
    assert model.last_selected_positions is None and model.last_gen_kept_indices is None
    out = run(model, batch)
    assert out.last_hidden_state.shape[1] == 38  # zero-filled: the length stays
    positions = model.last_selected_positions
    assert isinstance(positions, np.ndarray) and len(positions) == 6 and (np.diff(positions) > 0).all()
    assert model.last_gen_kept_indices.tolist() == (positions + 5).tolist()
    model.reset_custom_selection()
    assert model.last_selected_positions is None


def test_zero_fill_puts_results_first_and_zeros_after(model, batch):
    entered = []
    model.layers[2].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    run(model, batch)
    image = entered[0][0, 5:29]
    assert image[:6].abs().sum(-1).gt(0).all() and image[6:].eq(0).all()


def test_every_knob_is_live(model, batch):
    model.config.custom_placement = "drop"
    assert run(model, batch).last_hidden_state.shape[1] == 38 - 18
    chosen = {}
    for method in ("fps", "tome", "connectivity", "dpp"):
        model.custom_selection_method = method
        run(model, batch)
        chosen[method] = tuple(model.last_selected_positions)
    assert len(set(chosen.values())) >= 3
    hidden = []
    for temperature in (0.05, 0.2):
        model.config.custom_temperature = temperature
        hidden.append(run(model, batch).last_hidden_state)
    assert not torch.equal(*hidden)
    model.config.custom_kept_tokens = 3
    model.reset_custom_selection()
    run(model, batch)
    assert len(model.last_selected_positions) == 3
    model.use_custom_selection = False
    assert run(model, batch).last_hidden_state.shape[1] == 38 and model.last_selected_positions is None


def test_more_than_there_are_keeps_all_as_they_are(model, batch):
    model.custom_kept_tokens = 576
    kept = run(model, batch).last_hidden_state
    model.use_custom_selection = False
    torch.testing.assert_close(run(model, batch).last_hidden_state, kept, rtol=0, atol=0)


def test_several_scales_at_several_layers(model, batch):
    model.config.custom_agg_layer, model.config.custom_kept_tokens = [2, 4], [12, 3]
    with pytest.raises(ValueError, match="needs custom_placement='drop'"):
        run(model, batch)
    model.config.custom_placement = "drop"
    run(model, batch)
    assert model.last_visual_per_layer[:, 0].tolist() == [24, 24, 12, 12, 3, 3]
    assert len(model.last_selected_positions) == 3


def test_a_dynamic_number_stays_between_its_bounds(batch):
    counts = []
    for cover in (0.05, 0.6, 1.0):
        model = tiny_model(CustomTokenSelection_LlamaModel, **KNOBS, custom_placement="drop", custom_cover=cover)
        run(model, batch)
        counts.append(model.last_visual_per_layer[-1])
    assert counts[0].tolist() == [1, 1] and counts[2].tolist() == [6, 6]
    assert (counts[0] <= counts[1]).all() and (counts[1] <= counts[2]).all()


def test_likeness_to_the_question_changes_what_is_kept(model, batch):
    run(model, batch)
    plain = model.last_selected_positions.tolist()
    model.custom_semantic = 1.0
    run(model, batch)
    assert model.last_selected_positions.tolist() != plain


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"custom_selection_method": "random"}, "custom_selection_method: strategy='random' is unknown"),
        ({"custom_kept_tokens": 0}, "custom_kept_tokens: keep=0 .* at least 1"),
        ({"custom_kept_tokens": 1.5}, "custom_kept_tokens: keep=1.5"),
        ({"custom_temperature": 0}, "custom_temperature: temperature=0"),
        ({"custom_placement": "hide"}, "custom_placement: place='hide'"),
        ({"custom_agg_layer": 9}, "layer=9 .* out of range"),
        ({"custom_agg_layer": [2, 3], "custom_kept_tokens": [3, 6], "custom_placement": "drop"}, "must not grow"),
        ({"custom_cover": 0}, "custom_cover: cover=0"),
        ({"custom_semantic": 2}, "custom_semantic: semantic=2"),
        ({"custom_image_token_length": 35}, "custom_image_token_length=35 but the prompt says 24"),
        ({"custom_agg_layer": []}, r"custom_agg_layer=\[\] names no layer"),
    ],
)
def test_bad_knobs_name_the_knob_and_the_rule(batch, knobs, message):
    with pytest.raises(ValueError, match=message):
        run(tiny_model(CustomTokenSelection_LlamaModel, **KNOBS | knobs), batch)

"""The documented FastV classes, alone, as document 002 uses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llava.model.language_model.fastv import Fastv_LlamaModel
from llava.model.language_model.fastv_advanced import FastvAdvanced_LlamaModel
from llava.model.language_model.knobs import _warn_once
from llava.reduction import reduced
from tests.tiny import VOCABULARY, prompt, tiny_config, tiny_model

KNOBS = {
    "use_fast_v": True,
    "fast_v_sys_length": 5,
    "fast_v_image_token_length": 24,
    "fast_v_attention_rank": 9,
    "fast_v_agg_layer": 2,
}


@pytest.fixture
def model():
    return tiny_model(FastvAdvanced_LlamaModel, **KNOBS)


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (2, 40))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def run(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options)


def test_before_any_run_there_is_nothing_to_see(model):
    assert model.last_gen_attention_mask is None and model.last_gen_kept_indices is None
    assert model.last_selection_metadata == {}


def test_the_documented_attributes(model, inputs):
    out = run(model, inputs, output_attentions=True)
    assert out.last_hidden_state.shape[1] == 40 - 24 + 9
    assert model.last_gen_attention_mask.shape == (2, 40)
    assert model.last_gen_attention_mask.sum(1).tolist() == [25, 25]
    kept = model.last_gen_kept_indices
    assert isinstance(kept, np.ndarray) and kept.tolist() == sorted(kept)
    assert kept.tolist() == model.last_gen_attention_mask[0].nonzero()[:, 0].tolist()
    assert kept[:5].tolist() == [0, 1, 2, 3, 4] and kept[-11:].tolist() == list(range(29, 40))
    assert model.last_selection_metadata == {"method": "avg_all_heads"}
    model.reset_fastv()
    assert model.last_gen_kept_indices is None and model.last_selection_metadata == {}


def test_strategy_and_alpha_are_live(model, inputs):
    model.token_selection_method = "weighted_combination"
    kept = {}
    for alpha in (1.0, 1 / 4):
        model.weighted_alpha = alpha
        run(model, inputs)
        kept[alpha] = model.last_gen_kept_indices
        assert model.last_selection_metadata["alpha"] == alpha
    for method, alpha in (("max_head", 1.0), ("avg_all_heads", 1 / 4)):
        model.token_selection_method = method
        run(model, inputs)
        assert np.array_equal(model.last_gen_kept_indices, kept[alpha])
    model.token_selection_method = "max_head"
    run(model, inputs)
    metadata = model.last_selection_metadata
    assert metadata["max_head_idx"] == metadata["head_importance"].argmax() and metadata["head_importance"].shape == (
        4,
    )
    assert type(metadata["max_head_idx"]) is int


def test_config_changes_are_live_and_fastv_can_be_switched_off(model, inputs):
    model.config.fast_v_attention_rank = 3
    assert model.fast_v_attention_rank == 3
    assert run(model, inputs).last_hidden_state.shape[1] == 19
    model.use_fast_v = False
    assert run(model, inputs).last_hidden_state.shape[1] == 40
    assert model.last_gen_kept_indices is None


def test_mask_and_drop_fill_the_same_attributes(model, inputs):
    seen = []
    for inplace in (True, False):
        model.fast_v_inplace = inplace
        hidden = run(model, inputs).last_hidden_state
        seen.append((hidden[:, -1], model.last_gen_attention_mask, model.last_gen_kept_indices, hidden.shape[1]))
    assert [each[3] for each in seen] == [25, 40]
    assert torch.equal(seen[0][1], seen[1][1]) and np.array_equal(seen[0][2], seen[1][2])
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=0, atol=2e-5)


def test_a_span_typed_by_hand_is_counted_from_the_first_real_token(model, inputs):
    expected = run(model, inputs).last_hidden_state
    padding = torch.zeros(2, 6, dtype=torch.long)
    padded = {
        "input_ids": torch.cat([padding, inputs["input_ids"]], dim=1),
        "attention_mask": torch.cat([padding, inputs["attention_mask"]], dim=1),
    }
    positions = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
    actual = run(model, padded, position_ids=positions).last_hidden_state
    torch.testing.assert_close(actual[:, -1], expected[:, -1], rtol=0, atol=2e-5)


def test_a_start_that_the_prompt_contradicts_is_said_once_and_the_prompt_stands(model, caplog):
    """FastV's programs name 36 and HiMAP's 35 for one prompt, so neither can be an error."""
    batch = prompt((6, 24, 9))
    remark = "fast_v_sys_length=5 but the prompt says 6, which is used"
    _warn_once.cache_clear()
    for _ in range(2):
        run(model, batch.inputs)
        assert len(model.last_gen_kept_indices) == 6 + 9 + 9
        assert model.last_trace[0].remarks == (remark,)
    assert [record.message for record in caplog.records] == [remark]
    model.fast_v_sys_length = 6
    run(model, batch.inputs)
    assert model.last_trace[0].remarks == ()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"fast_v_image_token_length": 25}, "fast_v_image_token_length=25 but the prompt says 24"),
        ({"fast_v_sys_length": -1}, "fast_v_sys_length=-1 must be a whole number of at least 0"),
        ({"fast_v_image_token_length": 0}, "fast_v_image_token_length=0 must be a whole number of at least 1"),
    ],
)
def test_a_span_that_cannot_be_raises(model, knobs, message):
    for name, value in knobs.items():
        setattr(model, name, value)
    with pytest.raises(ValueError, match=message):
        run(model, prompt((5, 24, 9)).inputs)


def test_a_prompt_too_short_for_the_span_holds_no_image(model, inputs, caplog):
    short = {name: value[:, :20] for name, value in inputs.items()}
    _warn_once.cache_clear()
    assert run(model, short).last_hidden_state.shape[1] == 20
    assert "do not fit into a prompt of 20 tokens, which is taken to hold no image" in caplog.text


def test_plain_fastv_reads_the_mean_whatever_the_config_says():
    batch = prompt((5, 24, 9))
    models = [
        tiny_model(kind, **KNOBS, fast_v_token_selection_method="max_head")
        for kind in (Fastv_LlamaModel, FastvAdvanced_LlamaModel)
    ]
    kept = [run(model, batch.inputs) and model.last_trace[0].kept for model in models]
    assert models[0].last_trace[0].note(0)["method"] == "avg_all_heads"
    assert not torch.equal(*kept)


def test_a_plan_for_a_block_wins_over_the_knobs(model, inputs):
    with reduced(model, "full"):
        assert run(model, inputs).last_hidden_state.shape[1] == 40
    assert run(model, inputs).last_hidden_state.shape[1] == 25


def test_unknown_strategy_raises(model, inputs):
    model.token_selection_method = "best_head"
    with pytest.raises(ValueError, match="heads='best_head'"):
        run(model, inputs)


def test_two_models_do_not_share_knobs():
    first, second = (FastvAdvanced_LlamaModel(tiny_config(**KNOBS)) for _ in range(2))
    first.weighted_alpha = 0.9
    assert second.weighted_alpha == 0.5

"""What a prompt has cost a stock model, against what was counted while it ran."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava import model_cost, reduced
from tests.model.hosts.worlds import WORLDS, build, inputs_of

NAMES = [
    name for name in WORLDS if name not in ("llava-mistral-window", "gemma3", "paligemma2")
]  # whose windows are counted whole


@pytest.mark.parametrize("plan", ["full", "fastv@2:50%", "divprune:2"])
@pytest.mark.parametrize("name", NAMES)
def test_flops_are_those_that_a_counter_sees(name, plan):
    model = build(name)
    model.set_attn_implementation("eager")  # whose products the counter sees on every machine
    inputs = inputs_of(name, model, [[(1, 1)]])
    with torch.no_grad(), reduced(model, plan), FlopCounterMode(display=False) as counter:
        model(**inputs, logits_to_keep=1)
    (cost,) = model_cost(model)
    assert cost.total_flops - cost.selector_flops == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert len(cost.rows_per_layer) == 5 and cost.kv_bytes == sum(cost.rows_per_layer) * 2 * 2 * 8 * 4
    assert (cost.visual_per_layer[-1] < cost.visual_per_layer[0]) == (plan == "fastv@2:50%")


def test_a_row_of_text_has_no_tower_and_nothing_answered_is_an_error():
    model = build("llava")
    with pytest.raises(ValueError, match="inside reduced"):
        model_cost(model)
    with torch.no_grad(), reduced(model, "fastv@2:4"):
        model(**inputs_of("llava", model, [[(1, 1)], []]))
    picture, text = model_cost(model)
    assert picture.tower_flops > 0 == text.tower_flops and text.visual_tokens == 0
    assert picture.visual_per_layer == [16, 16, 4, 4, 4]


def test_what_a_selection_reads_of_the_tower_is_counted():
    model = build("llava")
    model.set_attn_implementation("eager")
    inputs = inputs_of("llava", model, [[(1, 1)]])
    counts = {}
    for plan in ("random@projected:4", "fastervlm@projected:4,saliency=mean_attention"):
        with torch.no_grad(), reduced(model, plan), FlopCounterMode(display=False) as counter:
            model(**inputs, logits_to_keep=1)
        counts[plan] = counter.get_total_flops()
    (cost,), (random, reading) = model_cost(model), counts.values()
    # The price leaves out the class token's query, which a stock tower projects with the others
    assert cost.selector_flops == pytest.approx(reading - random, rel=0.03)

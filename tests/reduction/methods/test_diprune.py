"""DIPrune against the formula on the maps of a model that shows them, one sample at a time."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import reduced
from tests.tiny import prompt, tiny_model

LAYER, KEEP = 4, 7


def ranks(received):
    order = sorted(range(len(received)), key=lambda j: (-received[j], j))
    return [order.index(j) + 1 for j in range(len(received))]


@pytest.mark.parametrize(("weight", "span", "limit"), [(0.6, 2, 0.25), (0.2, 1, 1.0), (1.0, 3, 0.1)])
def test_equals_the_formula(weight, span, limit):
    model, batch = tiny_model(), prompt((5, 24, 9), (3, 24, 4))
    model.set_attn_implementation("eager")
    with torch.no_grad(), reduced(model, ""):
        maps = [attention.mean(1) for attention in model(**batch.inputs, output_attentions=True).attentions]
    with torch.no_grad(), reduced(model, f"diprune@{LAYER}:{KEEP},weight={weight},span={span},limit={limit}"):
        model(**batch.inputs)
    for row in range(2):
        image = (batch.visual[row] == 1).nonzero()[:, 0]
        text = list(range(int(image[-1]) + 1, batch.visual.shape[1]))
        now, before = (
            ranks(maps[layer][row, text][:, image].sum(0).tolist()) for layer in (LAYER - 1, LAYER - 1 - span)
        )
        most = limit * 24
        score = [
            weight * (24 - a + 1) / 24 + (1 - weight) * (max(-most, min(most, b - a)) / most + 1) / 2
            for a, b in zip(now, before)
        ]
        best = sorted(range(24), key=lambda j: (-round(score[j], 9), j))
        kept = model.model.last_trace[0].kept[row].tolist()
        # Ranks are whole numbers, so that scores tie; what is kept may not score less than what is not
        assert min(score[j] for j in kept) >= max(score[j] for j in range(24) if j not in kept) - 1e-6
        assert {j for j in best[:KEEP] if score[j] > score[best[KEEP]] + 1e-6} <= set(kept)

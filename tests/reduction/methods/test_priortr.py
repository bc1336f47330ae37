"""PriorTR against the formula on the maps of a model that shows them, one sample at a time."""

from __future__ import annotations

import math

import pytest
import torch

from llava.reduction import reduced
from tests.tiny import prompt, tiny_model

LAYER, KEEP = 3, 7


@pytest.mark.parametrize("rows", ["question", "last"])
def test_equals_the_formula(rows):
    model, batch = tiny_model(), prompt((5, 24, 9), (3, 24, 4), (4, 24, 1))
    model.set_attn_implementation("eager")
    with torch.no_grad(), reduced(model, ""):
        maps = model(**batch.inputs, output_attentions=True).attentions[LAYER - 1].mean(1)
    with torch.no_grad(), reduced(model, f"priortr@{LAYER}:{KEEP},rows={rows}"):
        model(**batch.inputs)
    for row in range(3):
        image = (batch.visual[row] == 1).nonzero()[:, 0]
        text = range(int(image[-1]) + 1, batch.visual.shape[1])
        prior = maps[row, text[0], image].double()
        behind = list(text[1:]) or list(text)
        posterior = maps[row, text[-1], image] if rows == "last" else maps[row, behind][:, image].mean(0)
        p, q = (posterior.double() / posterior.sum()).tolist(), (prior / prior.sum()).tolist()
        score = [a * math.log((a + 1e-10) / (b + 1e-10)) for a, b in zip(p, q)]
        expected = sorted(sorted(range(24), key=lambda j: (-score[j], j))[:KEEP])
        if len(text) > 1:  # of one word the two are one, and rounding decides
            assert model.model.last_trace[0].kept[row].tolist() == expected

"""CLSE's first stage against the formula for one sample at a time, and what fine detail is."""

from __future__ import annotations

import numpy as np
import torch

from llava.reduction import plan_from, reduced
from llava.reduction.methods.decoder.clse import _detail
from tests.tiny import prompt, tiny_model

KEEP = 9


def detail(states, side):
    grid = states.reshape(side, side, -1)
    spectrum = np.fft.fft2(grid, axes=(0, 1))
    down, across = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    high = 1 - np.exp(-(down**2 + across**2) / (2 * 0.1**2))
    return np.abs(np.fft.ifft2(spectrum * high[..., None], axes=(0, 1))).mean(-1).ravel()


def test_a_flat_picture_has_no_detail_and_a_checkered_one_has():
    flat, (rows, columns) = torch.ones(1, 36, 4), np.indices((6, 6))
    assert _detail(flat, 6, 6).abs().max() < 1e-6
    checkered = torch.tensor((-1.0) ** (rows + columns)).reshape(1, 36, 1).float()
    torch.testing.assert_close(_detail(checkered, 6, 6), torch.ones(1, 36), rtol=0, atol=1e-4)


def test_equals_the_formula():
    model, batch = tiny_model(), prompt((5, 25, 9), (3, 25, 4))
    grids = torch.full((2, 1, 2), 5)
    model.set_attn_implementation("eager")
    with torch.no_grad(), reduced(model, ""):
        out = model(**batch.inputs, output_attentions=True, output_hidden_states=True)
    with torch.no_grad(), reduced(model, f"clse@1:{KEEP},evolution=true"):
        model(**batch.inputs, grids=grids)
    for row in range(2):
        image = (batch.visual[row] == 1).nonzero()[:, 0]
        attention = out.attentions[0][row].mean(0)[-1, image].double().numpy()
        first, now = (detail(out.hidden_states[layer][row, image].double().numpy(), 5) for layer in (0, 1))
        change = np.minimum(1, np.abs(now - first) / (first.mean() + first + 1e-6))
        z = (change - change.mean()) / change.std(ddof=1)
        score = attention / (1 + np.exp(-z / 0.1))
        expected = sorted(np.argsort(-score, kind="stable")[:KEEP].tolist())
        assert model.model.last_trace[0].kept[row].tolist() == expected


def test_only_the_first_stage_looks_at_detail():
    from llava.reduction import spelled_out

    stages = spelled_out(plan_from("clse:128"), 32)
    assert [str(stage) for stage in stages] == ["clse@1:220,evolution=true", "clse@11:140", "clse@21:41"]

"""Selectors and scores against hand-made numbers and naive loops."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import score, select
from llava.reduction.aggregate import mean_cells


def test_topk_breaks_ties_low():
    assert select.topk(torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]), 2).tolist() == [[1, 2]]


def test_head_readings_by_hand():
    """Two heads on three tokens, [.1 .2 .0] and [.3 .0 .4]: sums .3 and .7, so head 1 is the strongest."""
    attention = torch.tensor([[[0.1, 0.2, 0.0], [0.3, 0.0, 0.4]]])
    torch.testing.assert_close(score.mean_heads(attention), torch.tensor([[0.2, 0.1, 0.2]]))
    torch.testing.assert_close(score.max_head(attention), torch.tensor([[0.3, 0.0, 0.4]]))
    torch.testing.assert_close(score.weighted_heads(attention, 0.7), torch.tensor([[0.24, 0.06, 0.28]]))
    torch.testing.assert_close(score.weighted_heads(attention, 1.0), score.max_head(attention))
    torch.testing.assert_close(score.weighted_heads(attention, 1 / 2), score.mean_heads(attention))


def test_random_draws_by_picture_and_seed():
    seeds = torch.tensor([5, 6, 5])
    drawn = select.random(seeds, 0, 576, 64)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn, select.random(seeds, 1, 576, 64))
    assert all(len(set(row.tolist())) == 64 for row in drawn)
    counts = torch.bincount(select.random(torch.arange(2000), 0, 20, 5).flatten(), minlength=20)
    assert counts.min() > 400 and counts.max() < 600  # uniform: 500 each, 4 standard deviations


@pytest.mark.parametrize("k", [1, 2, 7, 16, 64, 144, 192, 500, 576])
def test_bands_cut_the_grid_into_k_cells(k):
    cells = select.bands(24, 24, k)
    assert len(cells) == k
    seen = [row * 24 + column for rows, columns in cells for row in rows for column in columns]
    assert sorted(seen) == list(range(576))  # every patch in exactly one cell
    sizes = [len(rows) * len(columns) for rows, columns in cells]
    assert min(sizes) > 0
    centres = select.grid(24, 24, k).tolist()
    assert len(set(centres)) == k and centres == sorted(centres)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 24])
def test_square_budgets_pool_like_avg_pool2d(side):
    tokens = torch.randn(2, 576, 5)
    picture = tokens.transpose(1, 2).unflatten(2, (24, 24))
    expected = torch.nn.functional.avg_pool2d(picture, 24 // side).flatten(2).transpose(1, 2)
    torch.testing.assert_close(mean_cells(tokens, 24, 24, side * side), expected)


def test_stride_reaches_both_ends():
    assert select.stride(576, 4).tolist() == [0, 192, 383, 575]
    assert select.stride(9, 1).tolist() == [4] and select.stride(9, 0).tolist() == []

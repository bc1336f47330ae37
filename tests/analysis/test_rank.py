"""Ranks of matrices whose rank is known."""

from __future__ import annotations

import math

import pytest
import torch

from llava.analysis.rank import effective_rank, map_ranks, numeric_rank, singular_values


def ranks(matrix: torch.Tensor) -> tuple[int, float, float]:
    values = singular_values(matrix)
    return int(numeric_rank(values)), float(effective_rank(values)), float(effective_rank(values, power=1))


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (torch.eye(7), 7),
        (torch.outer(torch.arange(1.0, 6), torch.ones(5)), 1),
        (torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])), 2),
        (torch.zeros(3, 3), 0),
        (torch.zeros(0, 0), 0),
    ],
)
def test_where_all_definitions_agree(matrix, rank):
    assert ranks(matrix) == pytest.approx((rank, rank, rank), abs=1e-4)


def test_two_definitions_by_hand():
    """diag(2, 1): of s^2 the shares are 0.8 and 0.2, of s they are 2/3 and 1/3."""

    def exponent(*shares: float) -> float:
        return math.exp(-sum(share * math.log(share) for share in shares))

    numeric, energy, amplitude = ranks(torch.diag(torch.tensor([2.0, 1.0])))
    assert numeric == 2
    assert energy == pytest.approx(exponent(0.8, 0.2), abs=1e-6)
    assert amplitude == pytest.approx(exponent(2 / 3, 1 / 3), abs=1e-6)


def test_the_tolerance_is_relative_and_scale_does_not_matter():
    assert ranks(torch.diag(torch.tensor([1.0, 2e-6])))[0] == 2
    assert ranks(torch.diag(torch.tensor([1.0, 5e-7])))[0] == 1
    small, large = (ranks(scale * torch.diag(torch.tensor([3.0, 1.0, 0.5]))) for scale in (1e-3, 1e3))
    assert small == pytest.approx(large)


def test_a_causal_map_has_full_numeric_rank_whatever_it_attends_to():
    """Row i spreads evenly over 0..i: lower triangular with diagonal 1 / i, so of rank n, yet of few directions."""
    even = torch.ones(64, 64).tril() / torch.arange(1, 65)[:, None]
    numeric, energy, amplitude = ranks(even)
    assert numeric == 64 and energy < amplitude < 32


def test_ranks_are_the_mean_over_the_heads():
    heads = torch.stack([torch.eye(4), torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))])
    assert map_ranks(heads) == pytest.approx(dict.fromkeys(map_ranks(heads), 3.0), abs=1e-5)


def test_an_unknown_definition_is_refused():
    with pytest.raises(ValueError, match="power=3 is no definition"):
        effective_rank(torch.ones(2), power=3)

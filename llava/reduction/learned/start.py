"""Where mergers start from: the tokens that are farthest from one another, and where they lie on the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import select
from ..score import similarity

OCTAVES = 4  # frequencies of the encoding of a patch's row and column


def farthest(tokens: Tensor, count: int) -> Tensor:
    """The tokens (B, count) that are farthest from one another under cosine similarity, in the order of the choice.

    In full precision also under autocast: rounded similarities tie, and training would not choose what evaluation does.
    """
    with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
        return select.fps(similarity(tokens), count)


def rank_preference(order: Tensor, tokens: int) -> Tensor:
    """-ln(1 + r) for the tokens of an ``order`` (B, R), r their place in it, and -ln(1 + R) for all others: (B, tokens)."""
    ranks = torch.full((len(order), tokens), order.shape[1], device=order.device)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return -torch.log1p(ranks.scatter(1, order, places).float())


def grid_of(tokens: int) -> tuple[int, int]:
    """How tokens lie on the picture: a square, or one line where their number is not a square."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else (1, tokens)


def patch_positions(height: int, width: int) -> Tensor:
    """Sines and cosines of each patch's row and column at doubling frequencies: (height * width, 4 * OCTAVES)."""
    rows, columns = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
    angles = torch.stack([rows, columns], -1).flatten(0, 1)[..., None] * (math.pi * 2.0 ** torch.arange(OCTAVES))
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)


def _centres(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count

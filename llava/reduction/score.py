"""Scores of visual tokens from attention: (G, H, N) to (G, N), higher is kept."""

from __future__ import annotations

from torch import Tensor


def mean_heads(attention: Tensor) -> Tensor:
    """Mean over the heads."""
    return attention.mean(1)


def head_importance(attention: Tensor) -> Tensor:
    """How much each head looks at the image at all: (G, H)."""
    return attention.sum(-1)


def max_head(attention: Tensor) -> Tensor:
    """The one head that looks at the image most."""
    best = head_importance(attention).argmax(1)
    return attention[range(len(attention)), best]


def weighted_heads(attention: Tensor, alpha: float) -> Tensor:
    """``alpha`` times the head that looks most plus ``1 - alpha`` times the mean of all others (zero for one head)."""
    strongest = max_head(attention)
    others = (attention.sum(1) - strongest) / max(attention.shape[1] - 1, 1)
    return alpha * strongest + (1 - alpha) * others

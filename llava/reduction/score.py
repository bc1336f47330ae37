"""Scores of visual tokens from attention: (G, H, N) to (G, N), higher is kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 1e-6  # of a cosine in float32: four times what a batch differs from its rows alone


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


def weighted_heads(attention: Tensor, alpha: float | Tensor) -> Tensor:
    """``alpha`` times the head that looks most plus ``1 - alpha`` times the mean of all others (zero for one head)."""
    strongest = max_head(attention)
    others = (attention.sum(1) - strongest) / max(attention.shape[1] - 1, 1)
    return alpha * strongest + (1 - alpha) * others


def text_weighted(to_image: Tensor, to_text: Tensor) -> Tensor:
    """Attention of the text to the image (G, R, N), every word weighted by what the text's words (G, R, R) give it.

    w_i = sum_j A_ji / sum_ij A_ij, s_n = sum_i w_i A_in; uniform weights where the text gives nothing. Rows and columns
    of zeros stand for words that a sample does not have.
    """
    received = to_text.sum(1)  # (G, R)
    total = received.sum(1, keepdim=True)
    weight = torch.where(total > 0, received / total.clamp(min=torch.finfo(total.dtype).tiny), 1 / received.shape[1])
    return (weight[:, None] @ to_image)[:, 0]


def focus(attention: Tensor) -> Tensor:
    """How concentrated attention (..., N) is: 1 - entropy / ln N, from 0 (uniform) to 1 (one token)."""
    share = attention / attention.sum(-1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
    return 1 - torch.special.entr(share).sum(-1) / math.log(max(attention.shape[-1], 2))


def min_max(score: Tensor) -> Tensor:
    """Scores (G, N) scaled to [0, 1] for each picture separately; zeros where all are equal."""
    low, high = score.aminmax(dim=1, keepdim=True)
    return (score - low) / (high - low).clamp(min=torch.finfo(score.dtype).tiny)


def similarity(tokens: Tensor, others: Tensor | None = None) -> Tensor:
    """Cosines between tokens (G, N, D) and themselves, or others (G, M, D), in float32: (G, N, N) or (G, N, M).

    Among themselves exactly 1 on the diagonal, and tokens that are equal up to rounding have exactly equal rows and
    columns: what ties on paper ties here, alone and in any batch.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    if others is not None:
        return unit @ F.normalize(others.float(), dim=-1).transpose(1, 2)
    alike = unit @ unit.transpose(1, 2)
    alike.diagonal(dim1=1, dim2=2).fill_(1)
    first = first_equal(alike)
    alike = alike.gather(1, first[..., None].expand_as(alike))
    return alike.gather(2, first[:, None].expand_as(alike))


def outliers(score: Tensor) -> Tensor:
    """Which scores (..., N) lie above Q3 + 1.5 (Q3 - Q1), quartiles interpolated linearly."""
    low, high = torch.quantile(
        score, torch.tensor([0.25, 0.75], dtype=score.dtype, device=score.device), dim=-1, keepdim=True
    )
    return score > high + 1.5 * (high - low)


def centred(tokens: Tensor) -> Tensor:
    """Tokens (G, N, D) without the mean of their picture, in float32."""
    rows = tokens.float()
    return rows - rows.mean(1, keepdim=True)


def uniqueness(alike: Tensor) -> Tensor:
    """How unlike all others each token is, given the cosines (G, N, N): minus their mean, scaled to [0, 1] (G, N)."""
    others = alike.sum(-1) - alike.diagonal(dim1=1, dim2=2)
    return min_max(-others / max(alike.shape[1] - 1, 1))


def first_equal(alike: Tensor) -> Tensor:
    """For every token the lowest one that it equals up to rounding, given their cosines (G, N, N): (G, N)."""
    return (alike > 1 - ROUNDING).to(torch.uint8).argmax(-1)


def question_relevance(tokens: Tensor, text: Tensor, real: Tensor, same: Tensor | None = None) -> Tensor:
    """How like the words (G, R, D) that are real (G, R) each token (G, N, D) is: mean cosine, scaled to [0, 1].

    ``same`` (G, N), as ``first_equal`` gives it: equal tokens get exactly equal values, so that the scaling does not turn
    rounding into a preference.
    """
    near = (similarity(tokens, text) * real[:, None]).sum(-1) / real.sum(1, keepdim=True).clamp(min=1)  # (G, N)
    if same is not None:
        near = near.gather(1, same)
    return min_max(near)

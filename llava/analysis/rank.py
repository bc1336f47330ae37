"""How many directions an attention map has: numeric rank, and two effective ranks of its singular values.

Shapes: n rows and columns of a map, any leading dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-6  # singular values below this share of the largest count as zero
NEGLIGIBLE = 1e-12  # shares below it are left out of the entropy


def singular_values(maps: Tensor) -> Tensor:
    """Singular values (..., n) of maps (..., n, n), descending, computed in float32."""
    return torch.linalg.svdvals(maps.float())


def numeric_rank(values: Tensor) -> Tensor:
    """How many singular values (..., n) exceed 1e-6 of the largest: (...), whole; 0 for a map of zeros or without rows.

    A causal map has a positive diagonal, so its rank is near n whatever the model does: only the effective ranks are
    informative.
    """
    if not values.shape[-1]:
        return torch.zeros(values.shape[:-1], dtype=torch.long)
    largest = values.amax(-1, keepdim=True)
    return ((values > TOLERANCE * largest) & (largest > 0)).sum(-1)


def effective_rank(values: Tensor, power: int = 2) -> Tensor:
    """exp of the entropy of p_i = s_i^power / sum_j s_j^power over the singular values s (..., n): (...), in [1, n].

    ``power`` 2 is document 004's definition, shares of the energy; 1 is Roy and Vetterli's (EUSIPCO 2007), which is never
    smaller. 0 for a map of zeros or without rows.
    """
    if power not in (1, 2):
        raise ValueError(
            f"power={power} is no definition of the effective rank; give 2 (document 004) or 1 (Roy, Vetterli)"
        )
    strength = values.double() ** power
    total = strength.sum(-1, keepdim=True)
    share = strength / total.clamp(min=torch.finfo(torch.double).tiny)
    entropy = torch.special.entr(share.where(share > NEGLIGIBLE, 0)).sum(-1)
    return entropy.exp().where(total[..., 0] > 0, 0)


def map_ranks(maps: Tensor) -> dict[str, float]:
    """The three ranks of maps (H, n, n), mean over the heads."""
    values = singular_values(maps)
    ranks = {
        "numeric_rank": numeric_rank(values).double(),
        "effective_rank": effective_rank(values),
        "effective_rank_roy_vetterli": effective_rank(values, power=1),
    }
    return {name: float(rank.mean()) for name, rank in ranks.items()}

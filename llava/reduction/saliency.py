"""How salient the tower finds each token: the class token's attention, or what stands for it in a tower without one.

The mean attention that a token receives from all others is what VisPruner's port to Qwen uses (arXiv 2412.01818).
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from . import prices
from .checks import check_choice
from .evidence import Evidence, Need

Saliency = Literal["cls", "mean_attention"]

_NEEDS = {"cls": Need.CLS, "mean_attention": Need.TOWER}


def check_saliency(value: str) -> frozenset[Need]:
    """What a reducer with this option needs. Raises ValueError for another word."""
    check_choice("saliency", value, get_args(Saliency))
    return frozenset({_NEEDS[value]})


def saliency(evidence: Evidence, how: Saliency, layer: int = -2) -> Tensor:
    """The saliency of each token in a layer of the tower, heads apart: (G, H, N)."""
    return evidence.cls_attention(layer) if how == "cls" else evidence.mean_attention(layer)


def saliency_flops(how: Saliency, patches: int, width: int) -> float:
    """What the saliency in one layer of the tower costs, for ``Reducer.reading_flops``."""
    return prices.cls_attention(patches, width) if how == "cls" else prices.mean_attention(patches, width)

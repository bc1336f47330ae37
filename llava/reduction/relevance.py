"""How relevant each token is to the question, by CLIP's text tower or by what stands for it in a model without one."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from . import prices
from .checks import check_choice
from .evidence import Evidence, Need
from .score import question_relevance, similarity

Relevance = Literal["clip", "embeddings"]

_NEEDS = {"clip": Need.CLIP, "embeddings": Need.TEXT}


def check_relevance(value: str) -> frozenset[Need]:
    """What a reducer with this option needs. Raises ValueError for another word."""
    check_choice("relevance", value, get_args(Relevance))
    return frozenset({_NEEDS[value]})


def relevance(tokens: Tensor, evidence: Evidence, how: Relevance) -> Tensor:
    """The relevance of each token (G, N), higher is more.

    "clip": minus the cosine of the patch and the question in CLIP's shared space, mean over the question's segments; patches
    that are like the question stand for its background there (arXiv 2506.10967). "embeddings": the mean cosine of the projected
    token and the question's words in the language model's embeddings.
    """
    if how == "embeddings":
        return question_relevance(tokens, *evidence.text())
    texts, real = evidence.clip_text()
    near = similarity(evidence.clip_patches(), texts) * real[:, None]  # (G, N, M)
    return -near.sum(-1) / real.sum(1, keepdim=True)


def relevance_flops(how: Relevance, patches: int, width: int) -> float:
    """What the relevance costs in the tower, for ``Reducer.reading_flops``; by embeddings nothing."""
    return prices.clip_patches(patches, width) if how == "clip" else 0.0

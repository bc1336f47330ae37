"""The learnable mergers under the name that their document gives them; ``learned.mergers`` holds them."""

from .learned.mergers import (
    ANNEALED,
    MERGERS,
    LearnableTokenMerger,
    LearnableTokenMergerV1,
    LearnableTokenMergerV2,
    LearnableTokenMergerV3,
    Merger,
    farthest,
    make_merger,
    rank_preference,
)

__all__ = [
    "ANNEALED",
    "MERGERS",
    "LearnableTokenMerger",
    "LearnableTokenMergerV1",
    "LearnableTokenMergerV2",
    "LearnableTokenMergerV3",
    "Merger",
    "farthest",
    "make_merger",
    "rank_preference",
]

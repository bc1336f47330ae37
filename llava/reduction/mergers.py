"""The learnable mergers under the name that their document gives them; the files of ``learned`` hold them."""

from .learned.base import Merger
from .learned.kinds import MERGERS, make_merger
from .learned.pooled import LearnableTokenMergerV3
from .learned.scored import ANNEALED, LearnableTokenMerger, LearnableTokenMergerV1, LearnableTokenMergerV2
from .learned.start import farthest, rank_preference

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

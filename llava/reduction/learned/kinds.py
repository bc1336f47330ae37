"""The mergers by the names that document 003 gives them."""

from __future__ import annotations

from typing import Any

from .base import Merger
from .pooled import LearnableTokenMergerV3
from .scored import LearnableTokenMerger, LearnableTokenMergerV2

MERGERS: dict[str, type[Merger]] = {
    "simple": LearnableTokenMerger,
    "question_aware": LearnableTokenMergerV2,
    "fixed_pooling": LearnableTokenMergerV3,
}


def make_merger(merger_type: str, **arguments: Any) -> Merger:
    """A merger by its documented ``merger_type``. Raises ValueError for an unknown one."""
    if merger_type not in MERGERS:
        raise ValueError(f"merger_type={merger_type!r} is unknown; choose one of {', '.join(MERGERS)}")
    return MERGERS[merger_type](**arguments)

"""The sizes at which a tower of several scales sees a picture ("Scaling on Scales", arXiv 2403.13043), as a config names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava.files import excerpt
from llava.reduction import Stage
from llava.reduction.stage import BATCHED_SITES

DEFAULT_SCALES = "336,672,1008"


def stated_scales(config: Any) -> tuple[int, ...]:
    """Pixels along a side of the picture at each scale, ascending; () for a config whose tower has one scale.

    config: `s2`, whether there are several, and `s2_scales`, numbers with commas between them, "336,672,1008" where it is
    missing. Raises ValueError for anything but multiples of the smallest, each named once.
    """
    if not getattr(config, "s2", False):
        return ()
    text = getattr(config, "s2_scales", None) or DEFAULT_SCALES
    parts = [part.strip() for part in text.split(",")] if isinstance(text, str) else [""]
    scales = tuple(int(part) if part.isdecimal() else 0 for part in parts)
    if 0 in scales:
        raise ValueError(
            f"s2_scales={excerpt(text)} must be a text of whole numbers of at least 1 with commas between them, such as"
            f" {DEFAULT_SCALES!r}"
        )
    scales = tuple(sorted(scales))
    if len(set(scales)) < len(scales):
        raise ValueError(f"s2_scales={excerpt(text)} must name each scale once")
    if any(scale % scales[0] for scale in scales):
        raise ValueError(
            f"s2_scales={excerpt(text)} must be multiples of the smallest, {scales[0]}, for the picture is cut into squares of"
            " that size"
        )
    return scales


def check_scales(scales: Sequence[int], config: Any) -> None:
    """Raises ValueError unless the smallest of the scales, if there are any, is the size in a tower's own config."""
    if scales and scales[0] != config.image_size:
        raise ValueError(
            f"s2_scales={','.join(map(str, scales))} has {scales[0]} as its smallest, but the vision tower reads pictures of"
            f" {config.image_size} pixels; give {config.image_size} and multiples of it"
        )


def squares(scales: Sequence[int]) -> int:
    """How many squares of the smallest scale a picture is at all scales together: 1 + 4 + 9 = 14 for "336,672,1008"."""
    return sum((scale // scales[0]) ** 2 for scale in scales)


def check_stages(plan: list[Stage]) -> None:
    """Raises ValueError for a stage that changes what the tower computes, which the scales would have to share."""
    for stage in plan:
        if stage.site in BATCHED_SITES:
            raise ValueError(
                f"{stage} acts at site={stage.site!r}, but a vision tower of several scales (s2=true) joins the same patches of"
                " every scale; take a method at site='features', such as divprune or grid"
            )

"""The subtasks of a board as heat maps: scores of every plan, and their differences from the full model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..rows import Row

SHARES = 20  # steps of a colour's depth


@dataclass(frozen=True)
class HeatCell:
    """A number, the step of its colour's depth (0 to SHARES), and its sign: "", "more" or "less"."""

    text: str
    share: int
    sign: str = ""


@dataclass(frozen=True)
class HeatMap:
    """A name, a caption, the subtasks, and lines of (plan, cells); None where that plan lacks the subtask."""

    name: str
    caption: str
    subtasks: list[str]
    lines: list[tuple[str, list[HeatCell | None]]]


def heat_maps(rows: Sequence[Row]) -> list[HeatMap]:
    """Every plan's scores, and where there is a full run the differences from it; none for fewer than two subtasks."""
    subtasks = list(dict.fromkeys(name for row in rows for name in row.subtasks))
    if len(subtasks) < 2:
        return []
    full = next((row for row in rows if row.method == "full"), None)
    maps = [_scores(rows, subtasks)]
    return maps if full is None or len(rows) < 2 else [*maps, _differences(rows, subtasks, full)]


def _scores(rows: Sequence[Row], subtasks: list[str]) -> HeatMap:
    scores = [score for row in rows for score in row.subtasks.values()]
    low, high = min(scores), max(scores)

    def cell(row: Row, name: str) -> HeatCell | None:
        score = row.subtasks.get(name)
        return None if score is None else HeatCell(f"{score:.0f}", _step((score - low) / ((high - low) or 1)))

    caption = f"out of {rows[0].subtask_max:g}; from {low:.0f}, palest, to {high:.0f}, deepest"
    return _heat_map("score", caption, subtasks, rows, cell)


def _differences(rows: Sequence[Row], subtasks: list[str], full: Row) -> HeatMap:
    gains = [row.subtasks[name] - full.subtasks[name] for row in rows for name in row.subtasks if name in full.subtasks]
    most = max(map(abs, gains), default=0) or 1

    def cell(row: Row, name: str) -> HeatCell | None:
        if name not in row.subtasks or name not in full.subtasks:
            return None
        gain = row.subtasks[name] - full.subtasks[name]
        text = f"{gain:+.0f}" if round(gain) else "0"
        return HeatCell(text, _step(abs(gain) / most), "more" if gain > 0 else "less")

    caption = f"score less that of full; deepest at {most:.0f}, with a sign before every number that is not 0"
    return _heat_map("difference from full", caption, subtasks, rows, cell)


def _heat_map(
    name: str,
    caption: str,
    subtasks: list[str],
    rows: Sequence[Row],
    cell: Callable[[Row, str], HeatCell | None],
) -> HeatMap:
    return HeatMap(name, caption, subtasks, [(row.plan, [cell(row, subtask) for subtask in subtasks]) for row in rows])


def _step(share: float) -> int:
    return round(SHARES * min(1.0, max(0.0, share)))

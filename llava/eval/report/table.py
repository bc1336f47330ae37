"""What a table of runs shows, for terminal, Markdown and page alike: its columns, and the notes below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..tasks.statistics import INDISTINCT
from .compare import Difference
from .rows import Row

LEVEL = 0.05
MISSING = "-"
COST_NOTE = (
    "visual tokens: mean over decoder layers. GFLOPs: the prompt's, with tower. ms: median milliseconds a question in the "
    "run, from projector to answer; the vision tower runs once a picture and comes on top. Brackets: 95 % bootstrap "
    "interval over pictures."
)


@dataclass(frozen=True)
class Cell:
    """One entry: its text, its interval, of a comparison the verdict and an aside, and what it is sorted by."""

    text: str
    detail: str = ""
    verdict: str = ""
    aside: str = ""
    order: float | str | None = None

    def __str__(self) -> str:
        aside = f"({self.aside})" if self.aside else ""
        return " ".join(filter(None, (self.text, self.detail, self.verdict, aside)))

    @property
    def brief(self) -> str:
        """Text and verdict in the fewest letters; the notes say what "indistinct" is."""
        return " ".join(filter(None, (self.text, self.verdict.replace(INDISTINCT, "indistinct"))))


@dataclass(frozen=True)
class Column:
    """A heading and its entries, one a row. ``words``: text rather than numbers; ``always``: also where room is scarce."""

    head: str
    cells: list[Cell]
    words: bool = False
    always: bool = True


def columns(rows: Sequence[Row]) -> list[Column]:
    """All columns that hold anything; task, model, folder and failures are there only where they differ or occur."""
    return [*_names(rows), *_scores(rows), *_costs(rows), *_comparisons(rows)]


def markdown(shown: Sequence[Column]) -> str:
    """The columns as a table of Markdown."""
    head = [column.head for column in shown]
    rule = ["---" if column.words else "---:" for column in shown]
    lines = zip(*([str(cell) for cell in column.cells] for column in shown), strict=True)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _names(rows: Sequence[Row]) -> list[Column]:
    found = []
    for head, name in (("task", lambda row: row.task), ("model", lambda row: row.model)):
        if len({name(row) for row in rows}) > 1:
            found.append(Column(head, [Cell(name(row), order=name(row)) for row in rows], words=True))
    if len({(row.task, row.model, row.plan) for row in rows}) < len(rows):
        found.append(Column("folder", [Cell(str(row.root), order=str(row.root)) for row in rows], words=True))
    plans = [Cell(row.plan, aside=f"{row.seeds} seeds" if row.seeds > 1 else "", order=row.plan) for row in rows]
    return [*found, Column("plan", plans, words=True)]


def _scores(rows: Sequence[Row]) -> list[Column]:
    limits = {row.max_score for row in rows}
    of_limit = f" / {limits.pop():g}" if len(limits) == 1 else ""

    def score(row: Row) -> Cell:
        digits = _digits(row)
        text = f"{row.score:.{max(1, digits)}f}" + ("" if of_limit else f" / {row.max_score:g}")
        spread = "" if row.score_sd is None else f" ± {row.score_sd:.{digits}f}"
        return Cell(text + spread, interval(row.score_interval, digits), order=row.score)

    def accuracy(row: Row) -> Cell:
        return Cell(f"{100 * row.accuracy:.1f}", interval(row.accuracy_interval, 1, scale=100), order=row.accuracy)

    return [
        Column(f"score{of_limit} [95 %]", list(map(score, rows))),
        Column("accuracy % [95 %]", list(map(accuracy, rows))),
    ]


def _costs(rows: Sequence[Row]) -> list[Column]:
    figures: list[tuple[str, Callable[[Row], float | None], int, bool]] = [
        ("visual tokens", lambda row: row.visual_tokens, 1, True),
        ("GFLOPs", lambda row: row.gflops, 2, True),
        ("KV MB", lambda row: row.kv_mb, 2, True),
        ("prefill ms", lambda row: row.prefill_ms, 1, False),
        ("decode ms", lambda row: row.decode_ms, 1, False),
        ("ms", lambda row: row.ms, 1, True),
        ("tower ms", lambda row: row.tower_ms, 1, False),
    ]
    found = []
    for head, figure, digits, always in figures:
        values = list(map(figure, rows))
        cells = [Cell(MISSING if value is None else f"{value:.{digits}f}", order=value) for value in values]
        if always or any(value is not None for value in values):
            found.append(Column(head, cells, always=always))
    if any(row.failed for row in rows):
        found.append(Column("failed", [Cell(str(row.failed), order=row.failed) for row in rows]))
    return found


def _comparisons(rows: Sequence[Row]) -> list[Column]:
    sides = (("vs full", [row.vs_full for row in rows]), ("vs random", [row.vs_random for row in rows]))
    return [
        Column(head, [_comparison(one, _digits(row)) for one, row in zip(found, rows)])
        for head, found in sides
        if any(found)
    ]


def _comparison(found: Difference | None, digits: int) -> Cell:
    """Difference of the score, or of accuracy in per cent where the score cannot be resampled."""
    if found is None:
        return Cell("")
    p = "p < 0.001" if found.p_holm < 0.001 else f"p = {found.p_holm:.3f}"
    said = f"perhaps {found.verdict}" if _weak(found) else found.verdict
    if found.score is None:
        bounds = interval(found.accuracy_interval, 1, scale=100, sign="+")
        return Cell(f"{100 * found.accuracy:+.1f} %", bounds, said, p, found.accuracy)
    bounds = interval(found.score_interval, digits, sign="+")
    return Cell(f"{found.score:+.{digits}f}", bounds, said, p, found.score)


def _weak(found: Difference) -> bool:
    """Whether only the interval tells two runs apart, not the corrected test."""
    return found.verdict != INDISTINCT and found.p_holm > LEVEL


def interval(bounds: Sequence[float], digits: int, scale: float = 1.0, sign: str = "") -> str:
    """``[low, high]``; ``sign`` "+" writes that of positive bounds too."""
    return "[" + ", ".join(f"{scale * bound:{sign}.{digits}f}" for bound in bounds) + "]"


def _digits(row: Row) -> int:
    """How many digits of a score mean anything: none of MME's 2,800, one of per cent, three of a score around 1."""
    return 0 if row.max_score >= 500 else 1 if row.max_score >= 20 else 3


def notes(rows: Sequence[Row], unfinished: Sequence[Path] = ()) -> list[str]:
    """What a reader of the table must know."""
    said = [f"{row.task}: {row.note}." for row in rows if row.note]
    said += [
        f"{row.plan}: {row.failed} of {row.questions} questions failed and count as wrong."
        for row in rows
        if row.failed
    ]
    said += [f"{folder} is not finished and not shown." for folder in unfinished]
    if any(row.seeds > 1 for row in rows):
        said.append("Plans with several seeds: mean ± standard deviation over the seeds; costs are means.")
    return [*dict.fromkeys(said), COST_NOTE, *_uncompared(rows), *_compared(rows)]


def _uncompared(rows: Sequence[Row]) -> list[str]:
    """Which comparisons were left out, those of one reason in one sentence."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.uncompared.items():
            reasons.setdefault((name, reason), []).append(row.plan)
    found = []
    for (name, reason), plans in reasons.items():
        why = "one of the two folders holds none" if reason == "no predictions.jsonl" else "that run had"
        found.append(f"Not compared with {name}, since {why} {reason}: {', '.join(plans)}.")
    return found


def _compared(rows: Sequence[Row]) -> list[str]:
    """What the comparisons are, and what remains of them once it counts how many there are."""
    made = [found for row in rows for found in (row.vs_full, row.vs_random) if found is not None]
    if not made:
        return []
    said = [
        "vs full, vs random: paired difference of the score over the same questions (per cent: of accuracy), random at the "
        f"same mean visual tokens within 2 %; better or worse where its 95 % interval leaves 0 out, else not "
        "distinguishable (indistinct). p: exact McNemar test of the answers, after Holm's correction for "
        f"{len(made)} comparison{'s' if len(made) > 1 else ''}."
    ]
    if any(map(_weak, made)):
        said.append(
            f"perhaps: by the interval alone, not by the corrected p; of {len(made)} intervals about "
            f"{LEVEL * len(made):.1f} leave 0 out by chance."
        )
    return said

"""The table of a report, for terminal, Markdown and page alike."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..tasks.statistics import INDISTINCT
from .compare import Difference
from .relative import Relative
from .rows import Row
from .split import Part

LEVEL = 0.05
MISSING = "-"
FILES_ONLY = 9  # the rank of columns that no terminal shows


@dataclass(frozen=True)
class Cell:
    """One entry: its text, its interval, for a comparison the verdict and its p, and what it is sorted by."""

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
        """Text and verdict in the fewest letters; the notes explain "indistinct"."""
        return " ".join(filter(None, (self.text, self.verdict.replace(INDISTINCT, "indistinct"))))


@dataclass(frozen=True)
class Column:
    """A heading and its entries, one for each row.

    ``words``: text rather than numbers. ``detailed``: a terminal shows the detail too. ``rank``: 0 is always shown; where
    lines are short the columns of the highest rank give way first.
    """

    head: str
    cells: list[Cell]
    words: bool = False
    detailed: bool = False
    rank: int = 0


def columns(rows: Sequence[Row]) -> list[Column]:
    """All columns that hold anything; task, model, template, folder and failures only where they differ or occur."""
    return [*_names(rows), *_scores(rows), *_costs(rows), *_comparisons(rows), *_splits(rows)]


def relative_columns(relatives: Sequence[Relative]) -> list[Column]:
    """The columns of the means of ratios: model where there are several, plan, mean with interval, each benchmark."""
    models = Column("model", [Cell(each.model, order=each.model) for each in relatives], words=True)
    plans = Column("plan", [Cell(each.plan, order=each.plan) for each in relatives], words=True)
    means = [
        Cell(_percent(each.ratio), interval(each.ratio_interval or (), 1, scale=100), order=each.ratio)
        if each.ratio_interval
        else Cell(MISSING)
        for each in relatives
    ]
    tasks = dict.fromkeys(task for each in relatives for task in each.ratios)
    ratios = [
        Column(f"{task} %", [Cell(_percent(each.ratios.get(task)), order=each.ratios.get(task)) for each in relatives])
        for task in tasks
    ]
    names = [models, plans] if len({each.model for each in relatives}) > 1 else [plans]
    return [*names, Column("mean of ratios % [95 %]", means, detailed=True), *ratios]


def _percent(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{100 * ratio:.1f}"


def markdown(shown: Sequence[Column]) -> str:
    """The columns as a table of Markdown; text that is code to a renderer is escaped."""
    head = [column.head for column in shown]
    rule = ["---" if column.words else "---:" for column in shown]
    lines = zip(*([escape_markdown(str(cell)) for cell in column.cells] for column in shown), strict=True)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def escape_markdown(text: str) -> str:
    """Text that a renderer of Markdown shows as it is: no tags, no links, no further columns or lines."""
    return " ".join(html.escape(text, quote=False).replace("|", "\\|").replace("](", "]\\(").split())


def templates(rows: Sequence[Row]) -> str:
    """The prompt templates of the rows, in words."""
    return " and ".join(dict.fromkeys(row.template or "not recorded" for row in rows))


def _names(rows: Sequence[Row]) -> list[Column]:
    names: tuple[tuple[str, Callable[[Row], str]], ...] = (
        ("task", lambda row: row.task),
        ("model", lambda row: row.model),
        ("template", lambda row: row.template or MISSING),
    )
    shown = [
        Column(head, [Cell(name(row), order=name(row)) for row in rows], words=True)
        for head, name in names
        if len({name(row) for row in rows}) > 1
    ]
    if len({(row.task, row.model, row.template, row.plan) for row in rows}) < len(rows):
        shown.append(Column("folder", [Cell(str(row.results), order=str(row.results)) for row in rows], words=True))
    plans = [Cell(row.plan, aside=f"{row.seeds} seeds" if row.seeds > 1 else "", order=row.plan) for row in rows]
    return [*shown, Column("plan", plans, words=True)]


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
        Column(f"score{of_limit} [95 %]", list(map(score, rows)), detailed=True),
        Column("accuracy % [95 %]", list(map(accuracy, rows)), rank=1),
    ]


def _costs(rows: Sequence[Row]) -> list[Column]:
    figures: list[tuple[str, Callable[[Row], float | None], int, int]] = [
        ("GFLOPs", lambda row: row.gflops, 2, 2),
        ("KV MB", lambda row: row.kv_mb, 2, 4),
        ("prefill ms", lambda row: row.prefill_ms, 1, FILES_ONLY),
        ("decode ms", lambda row: row.decode_ms, 1, FILES_ONLY),
        ("ms", lambda row: row.ms, 1, 3),
        ("tower ms", lambda row: row.tower_ms, 1, FILES_ONLY),
    ]
    shown = [Column("visual tokens", list(map(_visual_tokens, rows)), detailed=True)]
    for head, figure, digits, rank in figures:
        values = list(map(figure, rows))
        if rank < FILES_ONLY or any(value is not None for value in values):
            shown.append(Column(head, [_figure(value, digits) for value in values], rank=rank))
    if any(row.failed for row in rows):
        shown.append(Column("failed", [Cell(str(row.failed), order=row.failed) for row in rows]))
    return shown


def _figure(value: float | None, digits: int) -> Cell:
    return Cell(MISSING if value is None else f"{value:.{digits}f}", order=value)


def _visual_tokens(row: Row) -> Cell:
    """The mean that was really kept, and its range where questions differ, as under an adaptive plan."""
    cell = _figure(row.visual_tokens, 1)
    if row.visual_tokens_range is None:
        return cell
    least, most = row.visual_tokens_range
    return Cell(cell.text, f"({least:.0f} to {most:.0f})", order=cell.order)


def _comparisons(rows: Sequence[Row]) -> list[Column]:
    sides = (
        ("vs full", [row.vs_full for row in rows]),
        ("vs random", [row.vs_random for row in rows]),
        (f"vs {named(rows)}", [row.vs_named for row in rows]),
    )
    return [
        Column(head, [_comparison(difference, _digits(row)) for difference, row in zip(differences, rows, strict=True)])
        for head, differences in sides
        if any(differences)
    ] + _equivalence(rows)


def named(rows: Sequence[Row]) -> str:
    """What the plans are compared with besides full and random: a plan, or the method of several; empty where nothing."""
    plans = {row.vs_named.other for row in rows if row.vs_named}
    methods = {row.method for row in rows if row.plan in plans}
    return next(iter(plans if len(plans) == 1 else methods), "")


def _equivalence(rows: Sequence[Row]) -> list[Column]:
    """Whether each plan is shown to be as good as the full model, and the margin for which it would be."""
    differences = [row.vs_full for row in rows]
    cells = [
        Cell("", order=None)
        if each is None
        else Cell(each.equivalence, aside=f"shown within {each.shown_within:.1f}", order=each.shown_within)
        for each in differences
    ]
    return [Column("equivalent to full", cells, rank=FILES_ONLY)] if any(differences) else []


def _splits(rows: Sequence[Row]) -> list[Column]:
    """Accuracy on the hard and on the easy questions of a control, which is a column where there are several."""
    if not any(row.split for row in rows):
        return []
    controls = [row.split.control if row.split else "" for row in rows]
    shown = [Column("split by", [Cell(name, order=name) for name in controls], words=True)]
    sides: list[tuple[str, list[Part | None]]] = [
        ("hard", [row.split.hard if row.split else None for row in rows]),
        ("easy", [row.split.easy if row.split else None for row in rows]),
    ]
    parts = [Column(f"{head} % [95 %]", list(map(_part, each)), detailed=True) for head, each in sides]
    return [*(shown if len(set(controls)) > 1 else []), *parts]


def _part(part: Part | None) -> Cell:
    if part is None:
        return Cell(MISSING)
    bounds = interval(part.accuracy_interval, 1, scale=100)
    return Cell(f"{100 * part.accuracy:.1f}", bounds, aside=f"{part.questions} questions", order=part.accuracy)


def _comparison(difference: Difference | None, digits: int) -> Cell:
    """Difference of the score, or of accuracy in per cent where the score cannot be resampled."""
    if difference is None:
        return Cell("")
    p = "" if difference.p_holm is None else _p_value(difference.p_holm)
    verdict = f"perhaps {difference.verdict}" if by_interval_alone(difference) else difference.verdict
    if difference.score is None or difference.score_interval is None:
        bounds = interval(difference.accuracy_interval, 1, scale=100, sign="+")
        return Cell(f"{100 * difference.accuracy:+.1f} %", bounds, verdict, p, difference.accuracy)
    bounds = interval(difference.score_interval, digits, sign="+")
    return Cell(f"{difference.score:+.{digits}f}", bounds, verdict, p, difference.score)


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def by_interval_alone(difference: Difference) -> bool:
    """Whether only the interval tells two runs apart, not the corrected test."""
    return difference.verdict != INDISTINCT and difference.p_holm is not None and difference.p_holm > LEVEL


def interval(bounds: Sequence[float], digits: int, scale: float = 1.0, sign: str = "") -> str:
    """``[low, high]``; ``sign`` "+" writes the sign of positive bounds too."""
    return "[" + ", ".join(f"{scale * bound:{sign}.{digits}f}" for bound in bounds) + "]"


def _digits(row: Row) -> int:
    """How many decimals of a score mean anything: none for MME's 2,800, one for per cent, three for one around 1."""
    return 0 if row.max_score >= 500 else 1 if row.max_score >= 20 else 3

"""Published rows, and reproductions of them, as tables of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from llava.cli.tables import print_table

from ..report.printing import column_table
from ..report.rows import SAME_COST
from ..report.table import MISSING, Cell, Column, interval
from .measuring import Figure, Reproduction
from .published import ACCOUNTINGS
from .rows import Printed

NOT_APPLICABLE = "does not apply"


def show_rows(rows: Sequence[Printed], console: Console) -> None:
    """One line for each published row: who prints it, what its label counts, and the accuracies."""
    texts = [_row_texts(each) for each in rows]
    heads = ("source", "model", "method", "label", "counts", "mean tokens", "plan", "ratio %", "scores")
    numeric = ("label", "mean tokens", "ratio %")
    columns = [
        Column(head, [Cell(line[place]) for line in texts], words=head not in numeric)
        for place, head in enumerate(heads)
    ]
    print_table(column_table(f"{len(rows)} published rows", columns), console)
    counted = "; ".join(f"{name}: {meaning}" for name, meaning in ACCOUNTINGS.items())
    _say(console, f"counts, what the label counts: {counted}.")


def show_reproduction(result: Reproduction, others: Sequence[Printed], console: Console) -> None:
    """Published, measured and difference of the unreduced model, of the plan, and of their ratio; then what to know.

    others: further rows of the same method, label and task, which other sources print.
    """
    title = (
        f"{result.model} on {result.task}, {result.metric}: {result.method} at {result.label:g}, as in {result.source}"
    )
    columns = [
        Column("", [Cell(figure.name) for figure in result.figures], words=True),
        Column("published", [Cell(_published(figure, result)) for figure in result.figures]),
        Column("measured [95 %]", [_measured(figure) for figure in result.figures], detailed=True),
        Column("difference [95 %]", [_difference(figure) for figure in result.figures], detailed=True),
        Column("visual tokens", [Cell(_tokens(figure)) for figure in result.figures]),
    ]
    print_table(column_table(title, columns), console)
    for note in notes(result, others):
        _say(console, note)


def notes(result: Reproduction, others: Sequence[Printed]) -> list[str]:
    """What a reader of a reproduction must know."""
    remarks = []
    if result.obstacles:
        printed = ", ".join(f"{figure.name} {_number(figure.published)}" for figure in result.figures)
        remarks.append(f"The published figures do not apply ({printed}): {'; '.join(result.obstacles)}.")
    else:
        over = "the whole benchmark and not this sample of it" if result.sampled else "the same pictures"
        remarks.append(
            f"difference: measured less published; the published figure, over {over}, is taken as exact, so that a faithful "
            f"run is {'inside its bracket' if result.sampled else 'near 0, well inside its bracket'}."
        )
    remarks.append(
        f"Label {result.label:g}: {ACCOUNTINGS[result.accounting]}. {result.questions} questions; brackets: 95 % bootstrap "
        "interval over pictures, that of the ratio paired."
    )
    measured = result.figures[1].visual_tokens
    if measured is not None and result.mean_tokens and abs(measured / result.mean_tokens - 1) > SAME_COST:
        remarks.append(
            f"The source's plan has {result.mean_tokens:g} visual tokens on average over the layers, this run {measured:.1f}: "
            "the model has another depth or other pictures, or the plan is another one."
        )
    if result.failed:
        remarks.append(f"{result.failed} answers failed and count as wrong; --retry-failed asks them again.")
    remarks += [
        f"{each.publication.name} also prints this label, with {_number(each.row.scores[result.task])} "
        f"({each.publication.metrics[result.task]}); what it counts there: {ACCOUNTINGS[each.row.accounting]}."
        for each in others
    ]
    return remarks


def _row_texts(printed: Printed) -> list[str]:
    publication, row = printed.publication, printed.row
    scores = [f"{benchmark} {score:g}" for benchmark, score in row.scores.items()]
    average = [] if row.average is None else [f"average {row.average:g} of {_number(publication.base_average)}"]
    return [
        publication.name,
        publication.model.rpartition("/")[2],
        f"{row.method}, trained" if row.trained else row.method,
        f"{row.label:g}",
        row.accounting,
        _number(row.mean_tokens),
        row.plan or "",
        _number(row.relative),
        ", ".join([*scores, *average]),
    ]


def _published(figure: Figure, result: Reproduction) -> str:
    if result.obstacles:
        return NOT_APPLICABLE
    return "not printed" if figure.published is None else _number(figure.published)


def _measured(figure: Figure) -> Cell:
    return Cell(_number(figure.measured), interval(figure.interval, _digits(figure)))


def _difference(figure: Figure) -> Cell:
    if figure.difference is None or figure.difference_interval is None:
        return Cell(MISSING)
    return Cell(f"{figure.difference:+.1f}", interval(figure.difference_interval, _digits(figure), sign="+"))


def _tokens(figure: Figure) -> str:
    return "" if figure.visual_tokens is None else f"{figure.visual_tokens:.1f}"


def _digits(figure: Figure) -> int:
    """No decimals for the bounds of a score in the hundreds, one for per cent."""
    return 0 if figure.measured >= 200 else 1


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _say(console: Console, note: str) -> None:
    console.print(note, style="dim", markup=False, highlight=False)

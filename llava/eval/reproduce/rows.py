"""Which published row a command line means, and the plan that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llava.reduction import did_you_mean

from .published import Publication, PublishedRow


@dataclass(frozen=True)
class Printed:
    """A row with the source that prints it."""

    publication: Publication
    row: PublishedRow

    @property
    def name(self) -> str:
        """Source, method and label in short: ``cdpruner: fastv at 128``."""
        return f"{self.publication.name}: {self.row.method} at {self.row.label:g}"


def matching_rows(
    publications: Sequence[Publication],
    method: str | None = None,
    label: float | None = None,
    task: str | None = None,
    source: str | None = None,
) -> list[Printed]:
    """All rows that fit what is not None. Raises ValueError for an unknown source."""
    names = [publication.name for publication in publications]
    if source is not None and source not in names:
        raise ValueError(f"--source {source} is unknown{did_you_mean(source, names)}; known are {', '.join(names)}")
    return [
        Printed(publication, row)
        for publication in publications
        for row in publication.rows
        if source in (None, publication.name)
        and method in (None, row.method)
        and label in (None, row.label)
        and (task is None or task in row.scores)
    ]


def find_row(
    publications: Sequence[Publication], method: str, label: float, task: str, source: str | None = None
) -> Printed:
    """The one row of a method under a label that has a score on a task and can be run without training.

    Of several sources, one with a known plan or accounting comes first. Raises ValueError where there is none, or more
    than one, saying which there are.
    """
    found = [each for each in matching_rows(publications, method, label, task, source) if not each.row.trained]
    known = [each for each in found if each.row.accounting != "unknown"] or found
    if len(known) == 1:
        return known[0]
    if known:
        names = " or ".join(dict.fromkeys(each.publication.name for each in known))
        raise ValueError(f"{method} at {label:g} on {task} is printed more than once; choose with --source {names}")
    others = matching_rows(publications, method, task=task) or matching_rows(publications, method)
    if not others:
        methods = dict.fromkeys(row.method for publication in publications for row in publication.rows)
        raise ValueError(
            f"--method {method} has no published row{did_you_mean(method, methods)}; known are {', '.join(methods)}"
        )
    there = "; ".join(f"{each.name} on {', '.join(each.row.scores) or 'no single benchmark'}" for each in others[:8])
    raise ValueError(f"no published row of {method} at {label:g} on {task}; there is {there}. --list shows all")


def plan_of(printed: Printed) -> str:
    """The plan of a row: its own, or the method's budget of that label. Raises ValueError where it is not known."""
    row = printed.row
    if row.plan is not None:
        return row.plan
    if row.accounting == "unknown":
        raise ValueError(
            f"{printed.name}: the source does not say what {row.label:g} tokens count; give the plan with --reduction"
        )
    return f"{row.method}:{row.label:g}"

"""The page itself: the template filled with every model and task; style, script and parts are those of the report's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llava.files import write_text

from ...report.page import document as report
from ...report.table import MISSING, Cell, Column, columns, templates
from ..board import Entry, Leaderboard, relative
from ..tables import Line, matrix, missing_lines, noise_lines, notes
from .front import CHART_AXES, FrontChart, make_front
from .pictures import pictures_of

HERE = Path(__file__).parent
KINDS = {"before": "before the language model", "inside": "inside it", "control": "controls"}
# What a cell of the table of methods and means can show: its name, and how the heading of that column begins
FIGURES = {
    "accuracy %": "accuracy",
    "score": "score",
    "against random": "vs random",
    "against full": "vs full",
    "group A %": "hard",
    "mean tokens": "visual tokens",
    "GFLOPs": "GFLOPs",
    "KV MB": "KV MB",
    "ms": "ms",
}


def write_page(board: Leaderboard, file: str | Path) -> Path:
    """Write the page of a leaderboard; returns the file. Links to runs are relative to its folder.

    Raises ValueError naming a samples file that is not what it should be.
    """
    file = Path(file)
    boards = [
        _board(number, *names, entries, board.means, file.parent)
        for number, (names, entries) in enumerate(board.boards().items())
    ]
    rows = [entry.row for entry in board.entries if entry.row]
    style = report.page_style() + (HERE / "leaderboard.css").read_text(encoding="utf-8")
    scripts = (report.HERE / "report.js", HERE / "leaderboard.js")
    text = (
        report.templates_in(HERE, report.HERE)
        .get_template("leaderboard.html")
        .render(
            boards=boards,
            models=list(dict.fromkeys(each["model"] for each in boards)),
            tasks=list(dict.fromkeys(each["task"] for each in boards)),
            means=board.means,
            kinds=KINDS,
            figures=list(FIGURES),
            agreements=board.agreements,
            notes=notes(rows),
            machines=report.machines(rows),
            **report.self_contained(style, "\n".join(script.read_text(encoding="utf-8") for script in scripts)),
        )
    )
    write_text(file, text)
    return file


def _board(
    number: int, model: str, task: str, entries: Sequence[Entry], means: Sequence[int], folder: Path
) -> dict[str, Any]:
    """One model on one task as the template wants it; every cell has a number of its own."""
    measured = [(place, entry.row) for place, entry in enumerate(entries) if entry.row]
    rows, table = [row for _, row in measured], _columns(entries)
    places = {place: index for index, (place, _) in enumerate(measured)}
    pictures, answers = pictures_of(entries)
    cells = {
        f"{number}-{place}": {
            "title": entry.name if entry.mean is None else f"{entry.name} at {entry.mean}",
            "about": f"{model} on {task}; {KINDS[entry.kind]}",
            "reason": entry.reason,
            "figures": _figures(table, places.get(place)),
            "configs": _configs(entry, folder),
            "answers": answers[place],
        }
        for place, entry in enumerate(entries)
    }
    return {
        "id": f"board-{number}",
        "number": number,
        "model": model,
        "task": task,
        "template": templates(rows) if rows else MISSING,
        "questions": max((row.questions for row in rows), default=0),
        "plans": len(rows),
        "lines": [_line(line, entries, table, places) for line in matrix(entries, means)],
        "columns": table,
        "rows": [(place, entries[place], _configs(entries[place], folder)) for place, _ in measured],
        "charts": _charts(list(enumerate(entries))),
        "noise": noise_lines(entries),
        "missing": missing_lines(entries),
        "data": {"pictures": pictures, "cells": cells},
    }


def _columns(entries: Sequence[Entry]) -> list[Column]:
    """The report's columns of the runs, the cell's own before them: mean, where it chooses, tokens entering, what it is."""
    shown = [(entry, entry.row) for entry in entries if entry.row]
    if not shown:
        return []
    own = [
        Column("mean", [Cell(str(entry.mean or MISSING), order=entry.mean) for entry, _ in shown]),
        Column("where", [Cell(entry.kind, order=entry.kind) for entry, _ in shown], words=True),
        Column("entering", [_number(entry.entering) for entry, _ in shown]),
        Column("standing", [_standing(entry) for entry, _ in shown], words=True),
    ]
    found = columns([row for _, row in shown])
    named = {"split by": "group A by", "hard % [95 %]": "group A % [95 %]", "easy % [95 %]": "other questions % [95 %]"}
    return [*own, *(Column(named.get(each.head, each.head), each.cells, each.words) for each in found)]


def _number(value: float | None) -> Cell:
    return Cell(MISSING if value is None else f"{value:.0f}", order=value)


def _standing(entry: Entry) -> Cell:
    """Whether a run may be the best of its mean, and whether it lies on the front."""
    found = [*(["may be best"] if entry.contender else []), *(["front"] if entry.front else [])]
    return Cell(", ".join(found), order=2 * bool(entry.contender) + entry.front)


def _line(line: Line, entries: Sequence[Entry], table: Sequence[Column], places: dict[int, int]) -> dict[str, Any]:
    """One method: for each mean its cell's number, its figures by name, and how it compares with random."""
    cells = []
    for entry in line.places:
        place = None if entry is None else entries.index(entry)
        index = None if place is None else places.get(place)
        figures = {name: _find(table, head, index) for name, head in FIGURES.items()}
        cells.append({"number": place, "entry": entry, "figures": figures, "verdict": line.verdict(entry)})
    return {"name": line.name, "kind": line.kind, "cells": cells}


def _find(table: Sequence[Column], head: str, index: int | None) -> Cell | None:
    """The entry of a run in the column whose heading begins so, group A standing for the hard questions."""
    begin = "group A %" if head == "hard" else head
    column = next((each for each in table if each.head == begin or each.head.startswith(f"{begin} ")), None)
    return None if column is None or index is None else column.cells[index]


def _figures(table: Sequence[Column], index: int | None) -> list[tuple[str, str]]:
    """Every figure of a run with its heading."""
    return (
        []
        if index is None
        else [(column.head, str(column.cells[index])) for column in table if str(column.cells[index])]
    )


def _configs(entry: Entry, folder: Path) -> list[tuple[str, str]]:
    """The configuration of each run of a cell: its folder's name, and the path to it from the page."""
    folders = entry.row.folders if entry.row else []
    return [(Path(each).name, quote(f"{relative(each, folder)}/config.yaml")) for each in folders]


def _charts(entries: Sequence[tuple[int, Entry]]) -> dict[str, list[FrontChart]]:
    """The charts of every axis that has figures, one for each size."""
    charts = {}
    for axis in CHART_AXES:
        drawn = [make_front(entries, axis, size, *extent) for size, extent in report.SIZES.items()]
        if sizes := [chart for chart in drawn if chart is not None]:
            charts[axis.name] = sizes
    return charts

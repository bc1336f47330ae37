"""The files of a leaderboard: the page, JSON, CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava.files import write_json, write_text

from ..report.files import records_csv
from ..report.table import columns, escape_markdown, markdown
from ..results.folder import check_writable
from .board import Entry, Leaderboard, relative
from .page import write_page
from .tables import agreement_lines, matrix, missing_lines, noise_lines, notes

NAME = "leaderboard"


def write(board: Leaderboard, output: str | Path) -> list[Path]:
    """Write ``leaderboard.html``, ``.json``, ``.csv`` and ``.md`` into a folder, which is made; returns the files.

    Paths of runs are relative to that folder. Raises OSError naming the folder that cannot be written.
    """
    output = Path(output)
    check_writable(output)
    html, json, table, text = (output / f"{NAME}.{kind}" for kind in ("html", "json", "csv", "md"))
    cells = [record(entry, output) for entry in board.entries]
    agreement = [asdict(each) for each in board.agreements]
    write_json(json, {"format": 1, "means": list(board.means), "cells": cells, "agreement": agreement})
    write_text(table, records_csv(cells))
    write_text(text, as_markdown(board))
    write_page(board, html)
    return [html, json, table, text]


def record(entry: Entry, output: Path) -> dict[str, Any]:
    """A cell as plain values: where it stands, its figures, and for an empty one the reason."""
    place = {name: getattr(entry, name) for name in ("model", "task", "name", "kind", "mean", "reason")}
    if entry.row is None:
        return place
    judged = {name: getattr(entry, name) for name in ("entering", "contender", "front")}
    figures = {**entry.row.as_dict(), "folders": [relative(folder, output) for folder in entry.row.folders]}
    return {**place, **judged, **{name: value for name, value in figures.items() if name not in place}}


def as_markdown(board: Leaderboard) -> str:
    """For every model and task the table of methods and means, each mean's runs, and what is missing; then notes."""
    parts = ["# Leaderboard"]
    for (model, task), entries in board.boards().items():
        parts += [f"## {escape_markdown(f'{model} on {task}')}", _matrix(entries, board.means)]
        parts += [f"- {escape_markdown(line)}" for line in noise_lines(entries)]
        for mean in board.means:
            rows = [entry.row for entry in entries if entry.row and entry.mean in (mean, None)]
            if any(entry.mean == mean and entry.row for entry in entries):
                parts += [f"### {escape_markdown(f'{model} on {task} at {mean}')}", markdown(columns(rows))]
        parts += [f"- {escape_markdown(line)}" for line in missing_lines(entries)]
    if lines := agreement_lines(board.agreements):
        parts += ["## Do the rankings agree?", *(f"- {escape_markdown(line)}" for line in lines)]
    rows = [entry.row for entry in board.entries if entry.row]
    parts += ["## How to read this", *(f"- {escape_markdown(note)}" for note in notes(rows))]
    return _joined(parts)


def _matrix(entries: Sequence[Entry], means: Sequence[int]) -> str:
    """Accuracy in per cent: bold is better than random tokens at that cost, struck through worse."""
    marks = {"better": "**{}**", "worse": "~~{}~~"}
    lines = ["| method | " + " | ".join(map(str, means)) + " |", "|---|" + "---:|" * len(means)]
    for line in matrix(entries, means):
        if not any(place and place.row for place in line.places):
            continue
        cells = []
        for place in line.places:
            text = f"{100 * place.row.accuracy:.1f}" if place and place.row else ""
            text = marks.get(line.verdict(place), "{}").format(text) if text else ""
            cells.append(f"{text} ●" if place and place.contender else text)
        lines.append(f"| {escape_markdown(line.name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _joined(parts: Sequence[str]) -> str:
    """Paragraphs with a blank line between them, entries of a list without."""
    text = parts[0]
    for before, after in zip(parts, parts[1:]):
        text += ("\n" if before.startswith("- ") and after.startswith("- ") else "\n\n") + after
    return text + "\n"

"""A report's table in the terminal or a log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llava.cli.console import terminal
from llava.cli.tables import needed_width, print_table

from .notes import notes
from .relative import relatives
from .rows import REFERENCES, Row
from .table import FILES_ONLY, Column, columns, relative_columns, templates


def show(rows: Sequence[Row], unfinished: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print the table, without the columns that only the files have room for, and over several tasks the means of ratios.

    On a narrow terminal the least important columns give way; a log gets lines as long as the table.
    """
    console = console or terminal()
    shown = [column for column in columns(rows) if column.rank < FILES_ONLY]
    table, left_out = _table(rows, shown), []
    while console.is_terminal and needed_width(table, console) > console.width:
        rank = max(column.rank for column in shown)
        if rank == 0:
            break
        left_out = [column.head for column in shown if column.rank == rank] + left_out
        shown = [column for column in shown if column.rank < rank]
        table = _table(rows, shown)
    print_table(table, console)
    if means := relatives(rows):
        print_table(
            column_table("Mean over benchmarks of the ratio to the full model", relative_columns(means)), console
        )
    for note in notes(rows, unfinished):
        console.print(note, style="dim", markup=False, highlight=False)
    if left_out:
        console.print(
            f"Lines of {console.width} characters have no room for {', '.join(left_out)}; the report's files have them.",
            style="dim",
            markup=False,
            highlight=False,
        )


def _table(rows: Sequence[Row], shown: Sequence[Column]) -> Table:
    runs = " and ".join(dict.fromkeys(f"{row.model} on {row.task}" for row in rows))
    styles = ["dim" if row.method in REFERENCES else "" for row in rows]
    return column_table(f"{runs}, template {templates(rows)}", shown, styles)


def column_table(title: str, shown: Sequence[Column], styles: Sequence[str] = ()) -> Table:
    """A table for the terminal: columns of equal length, and the style of each line."""
    table = Table(
        title=escape(title),
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in shown:
        table.add_column(
            escape(_stacked(column)),
            justify="left" if column.words else "right",
            no_wrap=not column.words,
            overflow="fold",
        )
    for index in range(len(shown[0].cells)):
        texts = [_text(column, index) for column in shown]
        table.add_row(*map(escape, texts), style=styles[index] if styles else "")
    return table


def _text(column: Column, index: int) -> str:
    cell = column.cells[index]
    text = str(cell) if column.detailed else cell.brief
    return text.replace("+", "+\n") if column.head == "plan" else text


def _stacked(column: Column) -> str:
    """The heading on several short lines; the interval only where the terminal shows it."""
    head = column.head if column.detailed else column.head.removesuffix(" [95 %]")
    return (
        head.replace(" [", "\n[")
        .replace(" / ", "\n/ ")
        .replace("visual ", "visual\n")
        .replace("accuracy %", "accuracy\n%")
    )

"""Results folders to tables, figures and a page; nothing else is read, so a report needs no model.

    python -m llava.eval.report playground/results/quickstart

prints the table and writes ``report.md``, ``report.csv``, ``report.json``, ``report.html`` and a curve for every task and
model into the first folder or ``--output``. A row never shows a score without its cost, and methods are compared at their
mean visual tokens per layer: "fastv@2:64" and "pool:64" are not the same budget.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llava.cli.console import terminal
from llava.utils import exit_code

from ..results.folder import check_writable, write_json
from .curve import draw_curve
from .page import write_page
from .rows import REFERENCES, Row, boards, collect
from .table import columns, markdown, notes

logger = logging.getLogger(__name__)


def show(rows: Sequence[Row], unfinished: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print the table, without the columns that only the files have room for."""
    console = console or terminal()
    title = " and ".join(dict.fromkeys(f"{row.model} on {row.task}" for row in rows))
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown = [column for column in columns(rows) if column.always]
    for column in shown:
        head = column.head if column.head.startswith("score") else column.head.removesuffix(" [95 %]")
        stacked = head.replace(" [", "\n[").replace(" / ", "\n/ ").replace("visual ", "visual\n").replace("y %", "y\n%")
        table.add_column(
            escape(stacked),
            justify="left" if column.words else "right",
            no_wrap=not column.words,
            overflow="fold",
            min_width=12 if column.words else None,
        )
    for number, row in enumerate(rows):
        cells = [column.cells[number] for column in shown]
        texts = [str(cell) if column.head.startswith("score") else cell.brief for column, cell in zip(shown, cells)]
        texts = [text.replace("+", "+\n") if column.head == "plan" else text for column, text in zip(shown, texts)]
        table.add_row(*map(escape, texts), style="dim" if row.method in REFERENCES else "")
    console.print(table)
    for note in notes(rows, unfinished):
        console.print(note, style="dim", markup=False, highlight=False)


def write(rows: Sequence[Row], output: str | Path, unfinished: Sequence[Path] = (), html: bool = True) -> list[Path]:
    """Write ``report.md``, ``report.csv``, ``report.json``, ``report.html`` and the curves; returns the files."""
    output = Path(output)
    check_writable(output)
    tables = boards(rows)
    curves = []
    for (task, model), board in tables.items():
        file = output / ("curve.png" if len(tables) == 1 else f"curve-{task}-{model}.png")
        draw_curve(board).savefig(file)
        curves.append(file)
    pictures = [f"![score against visual tokens]({file.name})" for file in curves]
    text = "\n\n".join([markdown(columns(rows)), *notes(rows, unfinished), *pictures]) + "\n"
    (output / "report.md").write_text(text, encoding="utf-8")
    plain = [_flat(row.plain()) for row in rows]
    with open(output / "report.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in plain for name in row)))
        table.writeheader()
        table.writerows(plain)
    write_json(output / "report.json", [row.plain() for row in rows])
    page = [write_page(rows, unfinished, output / "report.html")] if html else []
    return [*curves, *(output / f"report.{kind}" for kind in ("md", "csv", "json")), *page]


def _flat(nested: dict, prefix: str = "") -> dict:
    """A row for a table of plain columns: nested names joined, intervals as two columns, lists with blanks between."""
    found = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}_"))
        elif name in ("vs_full", "vs_random"):
            continue  # not compared
        elif name.endswith("_interval") and value is not None:
            stem = prefix + name.removesuffix("_interval")
            found.update({f"{stem}_low": value[0], f"{stem}_high": value[1]})
        else:
            found[prefix + name] = " ".join(value) if isinstance(value, list) else value
    return found


def parser() -> argparse.ArgumentParser:
    """Folders, and where to write."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.report", description="Results folders to a table, a curve and a page."
    )
    flags.add_argument("folders", nargs="+", metavar="DIR", help="results folders; those under them are found")
    flags.add_argument("--output", help="where to write (default: the first folder)")
    flags.add_argument(
        "--html", action=argparse.BooleanOptionalAction, default=True, help="write report.html (default: yes)"
    )
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)

    def work() -> None:
        rows, unfinished = collect(given.folders)
        show(rows, unfinished)
        for file in write(rows, given.output or given.folders[0], unfinished, given.html):
            logger.info("wrote %s", file)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())

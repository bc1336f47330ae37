"""The files of a report: Markdown, CSV, JSON, the page, and the curves."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava.files import write_json, write_text

from ..results.folder import check_writable
from .curve import draw_curve
from .notes import notes
from .page import write_page
from .relative import relatives
from .rows import Row, boards
from .table import columns, escape_markdown, markdown, relative_columns

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of cells that a spreadsheet would compute


def write(rows: Sequence[Row], output: str | Path, unfinished: Sequence[Path] = (), page: bool = True) -> list[Path]:
    """Write ``report.md``, ``report.csv``, ``report.json``, the ``page`` and the curves; returns the files.

    Over several tasks the means of ratios to the full model are in ``report.md``, the page, and ``relative.json``.
    """
    output = Path(output)
    check_writable(output)
    tables = boards(rows)
    curves = []
    for (task, model), board in tables.items():
        name = "curve" if len(tables) == 1 else re.sub(r"[^\w.-]", "_", f"curve-{task}-{model}")
        file = output / f"{name}.png"
        draw_curve(board).savefig(file)
        curves.append(file)
    pictures = [f"![score against visual tokens]({file.name})" for file in curves]
    remarks = map(escape_markdown, notes(rows, unfinished))
    means = relatives(rows)
    listed = [markdown(columns(rows)), *([markdown(relative_columns(means))] if means else [])]
    write_text(output / "report.md", "\n\n".join([*listed, *remarks, *pictures]) + "\n")
    write_text(output / "report.csv", as_csv(rows))
    write_json(output / "report.json", [row.as_dict() for row in rows])
    if means:
        write_json(output / "relative.json", [asdict(mean) for mean in means])
    pages = [write_page(rows, unfinished, output / "report.html")] if page else []
    names = ["report.md", "report.csv", "report.json", *(["relative.json"] if means else [])]
    return [*curves, *(output / name for name in names), *pages]


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as plain columns; text that a spreadsheet would compute or a page would run is made harmless."""
    return records_csv([row.as_dict() for row in rows])


def records_csv(nested: Sequence[Mapping[str, Any]]) -> str:
    """Nested records as plain columns; see ``as_csv``."""
    records = [_flat(record) for record in nested]
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for record in records for name in record)))
    table.writeheader()
    table.writerows({name: _harmless(value) for name, value in record.items()} for record in records)
    return text.getvalue()


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Plain columns of a row: nested names joined, intervals as two columns, lists as words."""
    record: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            record.update(_flat(value, f"{prefix}{name}_"))
        elif name in ("vs_full", "vs_random", "split", "split_hard", "split_easy"):
            continue  # not compared, or not split
        elif name.endswith(("_interval", "_range")):
            low, high = value or (None, None)
            stem = prefix + name.rpartition("_")[0]
            record.update({f"{stem}_low": low, f"{stem}_high": high})
        else:
            record[prefix + name] = " ".join(value) if isinstance(value, list) else value
    return record


def _harmless(value: object) -> object:
    """Text without tags, and with an apostrophe in front where it would be a formula."""
    if not isinstance(value, str):
        return value
    text = html.escape(value, quote=False)
    return f"'{text}" if text.startswith(FORMULA) else text

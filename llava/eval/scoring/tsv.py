"""Tables of tab-separated text, as MMBench comes: a header, cells that may be quoted and hold line breaks."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

from llava.files import excerpt, read_text

LONGEST_CELL = 2**31 - 1  # characters; csv's own 131,072 are fewer than a picture in base64 has
# What pandas, with which LLaVA reads such files, takes for an empty cell, and LLaVA's own additions in lower case
EMPTY = frozenset("|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|n/a|null".split("|"))
NOTHING = frozenset(("nan", "none"))

Row = dict[str, str]


def numbered_rows(file: str | Path, needed: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Place ("FILE:3") and cells by column of every row; an empty cell, or one that pandas takes for such, is "".

    needed: columns in which no cell may be empty. Raises what ``read_text`` does, and ValueError naming file and line for a
    missing column, for a row of another length than the header, and for an empty cell of ``needed``.
    """
    lines = csv.reader(StringIO(read_text(file), newline=""), dialect="excel-tab")
    header = [name.strip() for name in _next(lines, file) or ()]
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(
            f"{file}:1 lacks the columns {', '.join(missing)}; it has {excerpt(header)}; give a table parted by tabs"
        )
    begins = lines.line_num + 1
    while (cells := _next(lines, file)) is not None:
        place, begins = f"{file}:{begins}", lines.line_num + 1
        if not cells:
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"{place} has {len(cells)} cells under {len(header)} columns; look for a stray tab or quote"
            )
        row = {name: "" if empty(cell) else cell for name, cell in zip(header, cells, strict=True)}
        for name in needed:
            if not row[name]:
                raise ValueError(f"{place} has nothing under {name}; fill it in or take the row out")
        yield place, row


def _next(lines: Iterator[list[str]], file: str | Path) -> list[str] | None:
    """The next row, None at the end."""
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        return next(lines, None)
    except csv.Error as error:
        raise ValueError(f"{file} is no table parted by tabs: {error}") from None
    finally:
        csv.field_size_limit(limit)


def empty(cell: str) -> bool:
    """Whether a cell counts as empty."""
    return not cell.strip() or cell in EMPTY or cell.lower() in NOTHING


def number_or_text(cell: str) -> int | str:
    """A whole number where the cell is one, as it is in a column of numbers, else its text."""
    return int(cell) if cell.isascii() and cell.isdigit() else cell

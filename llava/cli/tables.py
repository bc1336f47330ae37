"""Tables of a terminal or a log, printed so that no column is lost."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

UNLIMITED = 10_000  # characters of a line
FOLDED = 14  # characters to which a terminal may fold a column that wraps


def needed_width(table: Table, console: Console) -> int:
    """The shortest line that holds every column: cells whole, except that a terminal folds columns that wrap."""
    options = console.options.update(max_width=UNLIMITED)
    spare = 0
    for column in table.columns:
        cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
        if column.no_wrap:
            column.min_width = max(column.min_width or 0, max(cell.maximum for cell in cells))
        elif console.is_terminal:
            spare += max(0, max(cell.minimum for cell in cells) - FOLDED)
    return Measurement.get(console, options, table).minimum - spare


def print_table(table: Table, console: Console) -> None:
    """Print a table; where lines are too short for it they become longer, as rich would drop columns instead."""
    width = console.width
    console.width = max(width, needed_width(table, console))
    try:
        console.print(table)
    finally:
        console.width = width

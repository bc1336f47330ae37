"""Tables keep every column, however short the lines are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from llava.cli.tables import FOLDED, needed_width, print_table

PLAN = "condensation@2-64_strategy=connectivity"


def table() -> Table:
    made = Table()
    made.add_column("plan", overflow="fold")
    for number in range(8):
        made.add_column(f"figure {number}", no_wrap=True, justify="right")
    made.add_row(PLAN, *["1234.5 ± 67 [1200, 1300]"] * 8)
    return made


def printed(width: int, terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, no_color=True)
    print_table(table(), console)
    assert console.width == width
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 80, 110, 140, 300])
def test_a_log_has_every_cell_whole(width):
    """rich alone shrinks the plan to nothing at 110 columns, as all other columns do not wrap."""
    text = printed(width, terminal=False)
    assert PLAN in text and text.count("1234.5 ± 67 [1200, 1300]") == 8 and "…" not in text


@pytest.mark.parametrize("width", [20, 110, 240, 300])
def test_a_terminal_folds_what_wraps_and_loses_nothing(width):
    lines = printed(width, terminal=True).splitlines()
    folded = "".join(line.split("│")[1].strip() for line in lines if "│" in line)
    assert PLAN in folded and "".join(lines).count("1234.5 ± 67 [1200, 1300]") == 8


def test_a_terminal_needs_less_than_a_log_for_a_long_name():
    log, terminal = (needed_width(table(), Console(force_terminal=kind)) for kind in (False, True))
    assert log - terminal == len(PLAN) - FOLDED

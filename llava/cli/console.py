"""The two ends of a command: its command line and exit status, and the terminal with its progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llava.utils import exit_code

STOPPED = "stopped; every answer given so far is kept, the same command goes on from there"


def terminal() -> Console:
    """The terminal as it is, or lines long enough for every table where the output goes elsewhere."""
    return Console() if Console().is_terminal else Console(width=110)


def progress_bar(console: Console, shown: bool = True) -> Progress:
    """A bar with counts, elapsed and remaining time; with several processes the first draws it and counts for all."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not shown,
    )


def launch(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], object],
    arguments: Sequence[str] | None = None,
    *,
    bad: tuple[type[Exception], ...] = (ValueError, OSError),
    stopped: str | None = STOPPED,
) -> int:
    """Read a command line and do its work; returns 0, 2 for ``bad`` input, 130 when stopped by Ctrl-C.

    ``stopped`` is logged then; with None Ctrl-C is raised instead.
    """
    options = parser.parse_args(arguments)
    return exit_code(lambda: work(options), bad, stopped)

"""The terminal of a command: its width, a progress bar, and what is said when Ctrl-C stops it."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

STOPPED = "stopped; every answer given so far is kept, the same command goes on from there"


def terminal() -> Console:
    """The terminal as it is, or lines long enough for every table where the output goes elsewhere."""
    return Console() if Console().is_terminal else Console(width=110)


def progress_bar(console: Console, shown: bool = True) -> Progress:
    """A bar with how many, how long and how long yet; of several processes the first draws it, counting for all."""
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

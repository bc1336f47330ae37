"""One leaderboard, measured and drawn.

    llava leaderboard run configs/leaderboard.yaml --dry-run
    llava leaderboard run configs/leaderboard.yaml
    llava leaderboard build playground/results/leaderboard --output playground/results/leaderboard

``run`` measures the grid of a YAML file, resumes where it was stopped, says how long the rest will take, and ends with
``build``, which reads result folders alone and writes ``leaderboard.html``, ``.json``, ``.csv`` and ``.md``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llava.cli.console import launch, terminal
from llava.cli.tables import print_table
from llava.reduction.registry import load_plugin

from ..report.compare import MARGIN
from .board import build
from .clock import words
from .files import write
from .grid import read_grid
from .measure import TOGETHER, Measuring
from .work import Selection, Work, open_works

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """``run`` and ``build``."""
    flags = argparse.ArgumentParser(
        prog="llava leaderboard",
        description="Measure the grid of models, tasks, methods and mean visual tokens, and build its page.",
    )
    commands = flags.add_subparsers(dest="command", required=True, metavar="run | build")
    run = commands.add_parser("run", help="measure what is missing of a grid, then build")
    run.add_argument("grid", type=Path, metavar="GRID.yaml", help="such as configs/leaderboard.yaml")
    run.add_argument(
        "--dry-run", action="store_true", help="list the cells and how long they will take, measure nothing"
    )
    run.add_argument("--results", type=Path, help="folder of the results, instead of the grid's own")
    run.add_argument("--limit", type=int, help="at most this many questions of each task, instead of the grid's limit")
    for name, kind, about in (
        ("model", str, "this model alone"),
        ("task", str, "this task alone"),
        ("mean", int, "this mean alone"),
        ("method", str, "this method alone; * stands for any letters"),
    ):
        run.add_argument(f"--{name}", type=kind, action="append", default=[], help=f"{about}; repeatable")
    together = "plans that share one pass over the pictures (default: %(default)s)"
    run.add_argument("--together", type=int, default=TOGETHER, metavar="PLANS", help=together)
    run.add_argument("--retry-refused", action="store_true", help="try the plans again that a model has refused")
    run.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="a module that registers methods")
    run.add_argument("--no-page", action="store_true", help="do not build when all is measured")
    build_flags = commands.add_parser("build", help="the page, JSON, CSV and Markdown of result folders")
    build_flags.add_argument("folders", nargs="+", metavar="RESULTS", help="result folders; those under them are found")
    build_flags.add_argument("--output", type=Path, help="folder to write to (default: the first of the folders)")
    for each in (run, build_flags):
        margin = f"call a plan equivalent to the full model within this many points (default: {MARGIN:g})"
        each.add_argument("--margin", type=float, default=MARGIN, metavar="POINTS", help=margin)
    return flags


def run_command(options: argparse.Namespace) -> None:
    """Measure what is missing of a grid, or list it."""
    for plugin in options.plugin:
        load_plugin(plugin)
    if options.together < 1:
        raise ValueError(f"--together {options.together} must be at least 1")
    grid = read_grid(options.grid)
    changes = {name: value for name in ("results", "limit") if (value := getattr(options, name)) is not None}
    grid = replace(grid, **changes)
    chosen = Selection(tuple(options.model), tuple(options.task), tuple(options.mean), tuple(options.method))
    works = open_works(grid, chosen, make=not options.dry_run, retry=options.retry_refused)
    measuring = Measuring(works, together=options.together)
    if options.dry_run:
        show(works, measuring)
        return
    measuring.run()
    if not options.no_page:
        build_page([grid.results], grid.results, options.margin)


def build_page(folders: Sequence[str | Path], output: Path, margin: float = MARGIN) -> None:
    """Write the page and the other files of a leaderboard, and say where they are."""
    for file in write(build(folders, margin), output):
        logger.info("wrote %s", file)


def show(works: Sequence[Work], measuring: Measuring, console: Console | None = None) -> None:
    """Print every cell that is left or cannot be, and how long each model and task and the whole will take."""
    console, total = console or terminal(), 0.0
    for work in works:
        seconds = measuring.seconds(work)
        table = Table(title=f"{work.model.name} on {work.benchmark.task}", title_justify="left")
        for head in ("mean", "method", "plan", "time"):
            table.add_column(head, justify="right" if head in ("mean", "time") else "left", overflow="fold")
        for job in work.chosen:
            cell, took = job.cell, seconds.get(job.cell.plan or "")
            if work.finished(job) or (work.evaluation is None and job is not work.chosen[0]):
                continue
            plan = f"cannot be: {cell.reason}" if cell.reason else cell.plan or ""
            table.add_row(
                "" if cell.mean is None else str(cell.mean), cell.name, plan, "" if took is None else words(took)
            )
        done, left = sum(map(work.finished, work.chosen)), len(work.left())
        if table.row_count:
            print_table(table, console)
        console.print(
            f"{work.model.name} on {work.benchmark.task}: {done} cells are there, {left} are left, about "
            f"{words(sum(seconds.values()))}; {len(work.chosen) - done - left} cannot be.",
            markup=False,
        )
        total += sum(seconds.values())
    console.print(f"All in all {sum(len(work.left()) for work in works)} cells, about {words(total)}.", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""

    def work(options: argparse.Namespace) -> None:
        if options.command == "run":
            run_command(options)
        else:
            build_page(options.folders, options.output or Path(options.folders[0]), options.margin)

    return launch(parser(), work, arguments)


if __name__ == "__main__":
    sys.exit(main())

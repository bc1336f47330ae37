"""Results folders to tables, figures and a page; nothing else is read, so a report needs no model.

    python -m llava.eval.report playground/results/quickstart

prints the table and writes ``report.md``, ``report.csv``, ``report.json``, ``report.html`` and a curve for every task and
model into the first folder or ``--output``. A row never shows a score without its cost, and methods are compared at their
mean visual tokens per layer: "fastv@2:64" and "pool:64" are not the same budget. With --split-by a row also has its accuracy
on the questions that a control answers wrongly and on the others:

    python -m llava.eval.report playground/results/mme --split-by downsample

and with --against it is compared with another plan over the same questions, besides full and random tokens:

    python -m llava.eval.report playground/results/mme --against fastv@2:64
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from llava.utils import exit_code

from .compare import MARGIN
from .files import write
from .printing import show
from .runs import collect

__all__ = ["collect", "main", "parser", "show", "write"]

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Folders, and where to write."""
    flags = argparse.ArgumentParser(prog="llava report", description="Results folders to a table, a curve and a page.")
    flags.add_argument("folders", nargs="+", metavar="DIR", help="results folders; those under them are found")
    flags.add_argument("--output", help="where to write (default: the first folder)")
    flags.add_argument(
        "--html", action=argparse.BooleanOptionalAction, default=True, help="write report.html (default: yes)"
    )
    flags.add_argument(
        "--margin",
        type=float,
        default=MARGIN,
        metavar="POINTS",
        help=f"call a plan equivalent to the full model if this is shown within so many points (default: {MARGIN:g})",
    )
    flags.add_argument(
        "--split-by",
        "--split_by",
        metavar="RUN",
        help="also show the accuracy on the questions that a control answers wrongly (hard) and on the others (easy): the "
        "folder of its run, or a method such as downsample: each plan is split by its run that is nearest in cost",
    )
    flags.add_argument(
        "--against",
        metavar="RUN",
        help="also compare every plan with this one: the folder of its run, a plan such as fastv@2:64, or a method such as "
        "fastv@2: each plan is compared with its run at the same cost",
    )
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    flags = parser().parse_args(arguments)

    def work() -> None:
        rows, unfinished = collect(flags.folders, flags.margin, flags.split_by, flags.against)
        show(rows, unfinished)
        for file in write(rows, flags.output or flags.folders[0], unfinished, flags.html):
            logger.info("wrote %s", file)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())

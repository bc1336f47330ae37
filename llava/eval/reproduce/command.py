"""A paper's row run again, and the published figures next to what is measured.

    python -m llava.eval.reproduce --list --method fastv
    python -m llava.eval.reproduce --model-path liuhaotian/llava-v1.5-7b --task mme --method fastv --tokens 128

prints published, measured and difference with its interval for the unreduced model, the method, and their ratio. The same
command resumes a run that was stopped; answers are shared with ``llava.eval.run``. On a model or a benchmark that the paper
did not measure the published figures are shown not to apply.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.cli.console import launch, terminal
from llava.cli.flags import add_model_flags, model_spec
from llava.cli.settings import EvalSettings
from llava.files import write_json

from ..ask.opening import open_evaluation
from ..tasks.base import get_task, list_tasks
from .measuring import reproduce
from .printing import show_reproduction, show_rows
from .published import FOLDER, read_publications
from .rows import find_row, matching_rows, plan_of

logger = logging.getLogger(__name__)

BENCHMARKS = Path("playground/data/eval")  # where LLaVA keeps them, each in a folder of its name
FOLDERS = {"mme": "MME", "textvqa_no_ocr": "textvqa"}  # those that are not named as the task is


def parser() -> argparse.ArgumentParser:
    """Model, questions, and which published row."""
    flags = argparse.ArgumentParser(
        prog="llava reproduce",
        description="Run a published row again: published, measured, and their difference.",
    )
    add_model_flags(flags, model_path="")
    row = flags.add_argument_group("published row")
    row.add_argument("--method", help="the method, such as fastv")
    row.add_argument("--tokens", type=float, metavar="LABEL", help="the budget as the paper calls it, such as 128")
    row.add_argument("--source", help="which source, where several print the row: a file of --published")
    row.add_argument("--reduction", metavar="PLAN", help="the plan to run, where the source does not say it")
    row.add_argument("--published", type=Path, default=FOLDER, metavar="DIR", help="default: configs/published")
    row.add_argument("--list", action="store_true", help="show the rows that fit the flags given, and run nothing")
    questions = flags.add_argument_group("questions")
    questions.add_argument("--task", help=f"one of {', '.join(list_tasks())}")
    questions.add_argument("--data", type=Path, help=f"folder of the benchmark (default: its own in {BENCHMARKS})")
    questions.add_argument("--results", type=Path, help="where the runs lie (default: playground/results/TASK)")
    questions.add_argument("--batch-size", "--batch_size", type=int, default=8, help="questions at once (default: 8)")
    questions.add_argument(
        "--limit", type=int, help="at most this many questions, of whole pictures spread over the benchmark"
    )
    questions.add_argument("--retry-failed", action="store_true", help="ask failed questions again")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(parser(), _run, arguments)


def _run(flags: argparse.Namespace) -> None:
    publications, console = read_publications(flags.published), terminal()
    if flags.list:
        rows = matching_rows(publications, flags.method, flags.tokens, flags.task, flags.source)
        if not rows:
            raise ValueError("no published row fits these flags; give --list with fewer of them")
        show_rows(rows, console)
        return
    for name in ("model_path", "task", "method", "tokens"):
        if getattr(flags, name) in (None, ""):
            raise ValueError(f"--{name.replace('_', '-')} is needed to run a published row; --list shows the rows")
    get_task(flags.task)
    printed = find_row(publications, flags.method, flags.tokens, flags.task, flags.source)
    plan = flags.reduction or plan_of(printed)
    evaluation = open_evaluation(
        EvalSettings(
            model=model_spec(flags),
            task=flags.task,
            data=flags.data or BENCHMARKS / str(FOLDERS.get(flags.task, flags.task)),
            limit=flags.limit,
            results=flags.results,
            batch_size=flags.batch_size,
            retry_failed=flags.retry_failed,
        )
    )
    result = reproduce(evaluation, printed, plan, console)
    if result is None:
        return
    others = matching_rows(publications, flags.method, flags.tokens, flags.task)
    show_reproduction(result, [each for each in others if each != printed], console)
    file = evaluation.results / f"reproduced_{result.source}_{result.method}_{result.label:g}.json"
    write_json(file, result.as_dict())
    logger.info("wrote %s", file)


if __name__ == "__main__":
    sys.exit(main())

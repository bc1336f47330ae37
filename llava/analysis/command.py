"""The command line of an analysis: the flags that all analyses share, and the settings they make."""

from __future__ import annotations

import argparse
from pathlib import Path

from llava.cli.questions import add_question_flags, question_settings
from llava.eval.tasks.base import list_tasks

from .session import AnalysisSettings


def common_parser(name: str, description: str, output_dir: str) -> argparse.ArgumentParser:
    """A parser with the flags of model, questions and output; ``output_dir`` is the documented default."""
    flags = argparse.ArgumentParser(
        prog=f"python -m llava.analysis.{name}", description=description, conflict_handler="resolve"
    )
    add_question_flags(flags)
    group = flags.add_argument_group("analysis")
    group.add_argument("--task", default="mme", help=f"one of {', '.join(list_tasks())} (default: mme)")
    group.add_argument(
        "--samples-per-category",
        "--samples_per_category",
        type=int,
        help="at most this many questions of every category, each about a different picture",
    )
    group.add_argument(
        "--output-dir", "--output_dir", type=Path, default=Path(output_dir), help=f"default: {output_dir}"
    )
    return flags


def add_plan_flag(flags: argparse.ArgumentParser) -> None:
    """Adds --reduction: watch the model while its tokens are reduced."""
    flags.add_argument("--reduction", metavar="PLAN", help="a plan such as fastv@2:64 (default: every token)")


def analysis_settings(options: argparse.Namespace) -> AnalysisSettings:
    """The analysis of a command line with the flags of ``common_parser``."""
    return AnalysisSettings(
        evaluation=question_settings(options.task, options),
        output_dir=options.output_dir,
        reduction=vars(options).get("reduction"),
        samples_per_category=options.samples_per_category,
    )

"""Evaluation: models x plans x a task, into folders that a report can be made of.

    python -m llava.eval.run --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --data playground/data/eval/MME-shapes --reduction full --reduction fastv@2:64 --reduction blind

With the controls that every table needs, in several processes, and with plans whose budgets are chosen to cost the same:

    accelerate launch --multi_gpu --num_processes 4 -m llava.eval.run ...
    python -m llava.eval.run ... --reduction fastv@2 --reduction pool --match flops=0.3

The same command resumes a run that was stopped, with any number of processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llava.cli.console import launch, terminal
from llava.cli.flags import add_model_flags, add_reduction_flags, model_spec, plan_spec
from llava.cli.settings import PICTURES, EvalSettings, PlanSpec

from .ask.measure import measure_with_controls
from .ask.opening import open_evaluation
from .report.files import write
from .report.printing import show
from .report.rows import Row
from .report.runs import collect
from .tasks.base import list_tasks


def run(settings: EvalSettings, plans: PlanSpec, console: Console | None = None) -> list[Row]:
    """Evaluate plans, show their table, write the report of the whole results folder, and return the rows shown.

    Answers that the folder holds already are not asked for again. With several processes (``accelerate launch``), all
    but the first return no rows. Raises ValueError and OSError that name the argument or the file.
    """
    console = console or terminal()
    evaluation = open_evaluation(settings)
    measured = measure_with_controls(evaluation, plans, console)
    if not measured:
        return []
    rows, _ = collect([finished.folder for finished, _ in measured])
    show(rows, console=console)
    everything, unfinished = collect([evaluation.results])
    write(everything, evaluation.results, unfinished)
    return rows


def parser() -> argparse.ArgumentParser:
    """Model, task, results, and every reduction flag; ``--reduction`` may be given many times."""
    flags = argparse.ArgumentParser(
        prog="llava eval",
        description="Evaluate a model on a task under one or several reduction plans.",
        conflict_handler="resolve",
    )
    add_model_flags(flags)
    group = flags.add_argument_group("evaluation")
    group.add_argument("--task", default="mme", help=f"one of {', '.join(list_tasks())} (default: mme)")
    group.add_argument(
        "--data", type=Path, required=True, help="folder of the benchmark, or tar shards beside its questions"
    )
    images = "the pictures: a folder, tar shards, or a folder of shards (default: where the benchmark keeps them)"
    group.add_argument("--image-folder", "--image_folder", type=Path, help=images)
    group.add_argument("--results", type=Path, help="where each plan gets a folder (default: playground/results/TASK)")
    group.add_argument("--batch-size", "--batch_size", type=int, default=8, help="questions at once (default: 8)")
    group.add_argument(
        "--limit", type=int, help="at most this many questions, of whole pictures spread over the benchmark"
    )
    group.add_argument(
        "--match",
        metavar="tokens=N|flops=R|kv=R|latency=R",
        help="choose every plan's budget so that all cost the same: N mean visual tokens over the layers, or the share R "
        "of the dense prefill's FLOPs, of the KV cache it leaves, or of the time to the first token, measured in pairs "
        "with dense (so a later run may find another budget); given budgets say only the proportion between the stages "
        "of one plan",
    )
    group.add_argument(
        "--no-controls",
        "--no_controls",
        action="store_true",
        help="only the plans given, without full, blind, random x 3, grid, pool and downsample at their costs",
    )
    group.add_argument(
        "--encode-each",
        "--encode_each",
        action="store_true",
        help="encode the picture again for every question, as LLaVA's own loop does (to compare the speed)",
    )
    pictures = (
        "store this many pictures with what every plan kept of them, for the report's page (default: 12; 0: none)"
    )
    group.add_argument("--samples", type=int, default=PICTURES, help=pictures)
    group.add_argument(
        "--retry-failed", action="store_true", help="ask again the questions whose picture was unreadable"
    )
    add_reduction_flags(flags)
    flags.add_argument(
        "--reduction",
        action="append",
        metavar="PLAN",
        help="a plan such as fastv@2:64, full, or a YAML file; repeatable",
    )
    return flags


def eval_settings(options: argparse.Namespace) -> EvalSettings:
    """The evaluation that a command line of ``parser`` asks for."""
    return EvalSettings(
        model=model_spec(options),
        task=options.task,
        data=options.data,
        images=options.image_folder,
        limit=options.limit,
        results=options.results,
        batch_size=options.batch_size,
        samples=options.samples,
        encode_each=options.encode_each,
        retry_failed=options.retry_failed,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(parser(), lambda options: run(eval_settings(options), plan_spec(options)), arguments)


if __name__ == "__main__":
    sys.exit(main())

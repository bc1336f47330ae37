"""Evaluation: models x plans x a task, into folders that a report can be made of.

    python -m llava.eval.run --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --data playground/data/eval/MME-shapes --reduction full --reduction fastv@2:64 --reduction blind

With the controls that every table needs, on several GPUs (or, with --cpu, several processes of one machine), and with
plans whose budgets are chosen to cost the same:

    accelerate launch --num_processes 4 -m llava.eval.run ...
    python -m llava.eval.run ... --reduction fastv@2 --reduction pool --match flops=0.3

A run that was stopped goes on where it was; the same command does it, with any number of processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from llava.cli.console import STOPPED, terminal
from llava.cli.flags import add_model_flags, add_reduction_flags, load_from_flags
from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import read_config
from llava.model.checkpoint import find_folder
from llava.model.tokenizer import load_tokenizer
from llava.reduction import Stage
from llava.utils import exit_code

from .ask.controls import Pricing, matched, parse_match, plans_from, tokens_of_picture, with_controls
from .ask.measure import measure
from .ask.subject import LlavaSubject, Subject, prompt_ids
from .report.command import collect, show, write
from .results import samples
from .tasks.base import Task, get_task, list_tasks


def compared_plans(arguments: argparse.Namespace, task: Task, folder: Path) -> list[list[Stage]]:
    """The plans asked for, matched in cost where ``--match`` says so, and their controls unless ``--no-controls``."""
    config = read_config(folder)
    match = parse_match(arguments.match) if arguments.match else None
    plans = plans_from(arguments, config, keep=1.0 if match else None)
    tokens, pricing = tokens_of_picture(folder, config), None
    if tokens is not None:
        pricing = Pricing(config, tokens)
    if match and pricing is None:
        raise ValueError(
            f"--match {arguments.match}: this model cuts pictures into crops, so that their tokens differ; "
            "give budgets as fractions instead"
        )
    if match:
        tokenizer = load_tokenizer(folder)
        lengths = [
            len(prompt_ids(tokenizer, config, arguments.conv_mode, task.prompt(one))) - 1 for one in task.examples
        ]
        pricing = replace(pricing, text=round(median(lengths)))
        plans = [matched(plan, pricing, *match) for plan in plans]
    return plans if arguments.no_controls else with_controls(plans, pricing)


def parser() -> argparse.ArgumentParser:
    """Model, task, results, and every reduction flag; ``--reduction`` may be given many times."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.run",
        description="Evaluate a model on a task under one or several reduction plans.",
        conflict_handler="resolve",
    )
    add_model_flags(flags)
    group = flags.add_argument_group("evaluation")
    group.add_argument("--task", default="mme", help=f"one of {', '.join(list_tasks())} (default: mme)")
    group.add_argument("--data", type=Path, required=True, help="folder of the benchmark")
    group.add_argument("--results", type=Path, help="where a folder a plan is made (default: playground/results/TASK)")
    group.add_argument("--batch-size", "--batch_size", type=int, default=8, help="questions at once (default: 8)")
    group.add_argument("--limit", type=int, help="at most so many questions, whole pictures spread over the benchmark")
    group.add_argument(
        "--match",
        metavar="tokens=N|flops=R",
        help="choose every plan's budget so that all cost the same: N mean visual tokens over the layers, or the share R "
        "of the dense prefill's FLOPs; budgets given say only the proportion between the stages of one plan",
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
        help="encode the picture anew for every question, as LLaVA's own loop does (to compare the speed)",
    )
    pictures = "so many pictures with what every plan kept of them, for the report's page; 0 for none (default: 12)"
    group.add_argument("--samples", type=int, default=samples.PICTURES, help=pictures)
    group.add_argument(
        "--retry-failed", action="store_true", help="ask the questions again whose picture was unreadable"
    )
    add_reduction_flags(flags)
    flags.add_argument(
        "--reduction",
        action="append",
        metavar="PLAN",
        help="a plan such as fastv@2:64, full, or a YAML file; repeatable",
    )
    return flags


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Evaluate what a command line asks for, show the table of these plans and write the report of the whole folder."""
    arguments.conv_mode = arguments.conv_mode or conversation_mode(get_model_name_from_path(arguments.model_path))
    get_conversation(arguments.conv_mode)
    if arguments.samples < 0:
        raise ValueError(f"--samples {arguments.samples} must be a number of pictures; 0 stores none")
    task = get_task(arguments.task)(arguments.data, arguments.limit)
    folder = find_folder(arguments.model_path, "model")
    plans = compared_plans(arguments, task, folder)
    results = arguments.results or Path("playground/results") / task.name

    def load(device: torch.device | None) -> Subject:
        flags = {**vars(arguments), "reduction": None, "device": arguments.device or device}
        tokenizer, model, image_processor, _ = load_from_flags(argparse.Namespace(**flags))
        return LlavaSubject(tokenizer, model, image_processor, arguments.conv_mode)

    measured = measure(arguments, task, plans, results, folder, load, console)
    if not measured:
        return
    rows, _ = collect([one.folder for one, _ in measured])
    show(rows, console=console)
    rows, unfinished = collect([results])
    write(rows, results, unfinished)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given, terminal()), stopped=STOPPED)


if __name__ == "__main__":
    sys.exit(main())

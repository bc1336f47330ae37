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
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import read_config
from llava.model.checkpoint import find_folder
from llava.model.tokenizer import load_tokenizer
from llava.reduction import Stage, plan_name
from llava.utils import exit_code

from .flags import add_model_flags, add_reduction_flags, load_from_flags
from .loop import Answer, answers
from .plans import Pricing, matched, method_label, parse_match, plans_from, tokens_of_picture, with_controls
from .report import collect, show, terminal, write
from .results import Run, model_fingerprint, summarise_cost
from .subject import Generation, LlavaSubject, Subject, prompt_ids
from .task import Example, Line, Task, get_task, list_tasks

logger = logging.getLogger(__name__)


def evaluate(
    subject: Subject | None,
    task: Task,
    runs: Sequence[tuple[list[Stage], Run]],
    batch_size: int = 8,
    progress: Progress | None = None,
    processes: PartialState | None = None,
    shared_features: bool = True,
) -> list[dict]:
    """Answer what the runs still lack, line by line, and return each run's metrics, in order.

    ``runs`` pairs a plan with its open folder. A picture that cannot be read fails its questions, with the reason in their
    lines, and nothing else. With several ``processes`` each answers its share of the batches into its own part of the
    folders; the first gathers them, and the others return nothing. Raises what the model raises; the answers until then
    are kept. ``subject`` may be None when every answer is there already.
    """
    progress = progress or Progress(disable=True)
    processes = processes or PartialState()
    share = (processes.process_index, processes.num_processes)
    total, done = len(task.examples) * len(runs), sum(len(run.done) for _, run in runs)
    bar = progress.add_task(task.name, total=total, completed=done)
    found = (
        []
        if done == total
        else answers(
            subject,
            [plan for plan, _ in runs],
            task.examples,
            prompt=task.prompt,
            wanted=lambda number, example: example.key not in runs[number][1].done,
            batch_size=batch_size,
            generation=Generation(max_new_tokens=task.max_new_tokens),
            share=share,
            shared_features=shared_features,
        )
    )
    for answer in found:
        run = runs[answer.number][1]
        run.append(_line(task, answer))
        progress.update(bar, description=f"{task.name}  {run.folder.name}", advance=share[1])
    processes.wait_for_everyone()
    if not processes.is_main_process:
        return []
    order = {example.key: place for place, example in enumerate(task.examples)}
    metrics = []
    for plan, run in runs:
        lines = run.gather(order)
        figures = {"plan": run.folder.name, "method": method_label(plan), **task.metrics(lines)}
        run.finish(figures, summarise_cost(lines))
        metrics.append(figures)
    return metrics


def _line(task: Task, answer: Answer) -> Line:
    """An answer as a line of ``predictions.jsonl``."""
    reply, example = answer.reply, answer.example
    about = _about(task, example, answer.prompt)
    if reply is None:
        return {**about, "text": "", **task.score(example, ""), "correct": False, "error": answer.error}
    line = {
        **about,
        "text": reply.text,
        **task.score(example, reply.text),
        "kept": reply.kept,
        "cost": reply.cost,
        "seconds": round(answer.seconds, 6),
        "tower_seconds": round(answer.tower_seconds, 6),
    }
    return line if reply.prefill_seconds is None else {**line, "prefill_seconds": round(reply.prefill_seconds, 6)}


def _about(task: Task, example: Example, prompt: str) -> dict:
    image = example.image
    if image is not None and image.is_relative_to(task.data):
        image = image.relative_to(task.data)
    return {
        "key": example.key,
        "question_id": example.question_id,
        "picture": example.picture,
        "image": None if image is None else str(image),
        "category": example.category,
        "prompt": prompt,
    }


def compared_plans(arguments: argparse.Namespace, task: Task, folder: Path, conv_mode: str) -> list[list[Stage]]:
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
        lengths = [len(prompt_ids(tokenizer, config, conv_mode, task.prompt(one))) - 1 for one in task.examples]
        pricing = replace(pricing, text=round(median(lengths)))
        plans = [matched(plan, pricing, *match) for plan in plans]
    return plans if arguments.no_controls else with_controls(plans, pricing)


def configuration(arguments: argparse.Namespace, task: Task, plan: list[Stage], folder: Path, conv_mode: str) -> dict:
    """Everything that decides the answers of a run, as plain values; ``folder`` is where the model lies."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "task": {
            "name": task.name,
            "data": str(arguments.data),
            "questions": len(task.examples),
            "limit": arguments.limit,
            "fingerprint": task.fingerprint(),
        },
        "model": {
            "name": get_model_name_from_path(arguments.model_path),
            "path": str(arguments.model_path),
            "base": arguments.model_base,
            "fingerprint": model_fingerprint(folder),
            "device": str(device),
            "dtype": arguments.dtype or ("float16" if str(device).startswith("cuda") else "float32"),
            "attn_implementation": arguments.attn_implementation,
            "bits": 8 if arguments.load_8bit else 4 if arguments.load_4bit else None,
        },
        "plan": {"name": plan_name(plan), "method": method_label(plan), "stages": [str(stage) for stage in plan]},
        "conv_mode": conv_mode,
        "max_new_tokens": task.max_new_tokens,
        "decoding": "greedy",
        "batch_size": arguments.batch_size,
    }


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
    if arguments.batch_size < 1:
        raise ValueError(f"batch_size={arguments.batch_size} must be at least 1")
    conv_mode = arguments.conv_mode or conversation_mode(get_model_name_from_path(arguments.model_path))
    get_conversation(conv_mode)
    task = get_task(arguments.task)(arguments.data, arguments.limit)
    folder = find_folder(arguments.model_path, "model")
    plans = compared_plans(arguments, task, folder, conv_mode)
    results = arguments.results or Path("playground/results") / task.name
    processes = PartialState(cpu=str(arguments.device or "").startswith("cpu") or not torch.cuda.is_available())
    logger.setLevel(logging.INFO if processes.is_main_process else logging.ERROR)
    with ExitStack() as stack:
        with processes.main_process_first():
            runs = []
            for plan in plans:
                settings = configuration(arguments, task, plan, folder, conv_mode)
                run = Run(results / plan_name(plan), settings, processes.process_index)
                runs.append(stack.enter_context(run))
            if arguments.retry_failed and processes.is_main_process:
                logger.info("%d failed questions are asked again", sum(one.retry_failed() for one in runs))
        done = sum(len(one.done) for one in runs)
        if done:
            logger.info("%d of %d answers are there already", done, len(runs) * len(task.examples))
        subject = None
        if done < len(runs) * len(task.examples):
            device = arguments.device or (processes.device if processes.num_processes > 1 else None)
            flags = {**vars(arguments), "reduction": None, "device": device}
            tokenizer, model, image_processor, _ = load_from_flags(argparse.Namespace(**flags))
            subject = LlavaSubject(tokenizer, model, image_processor, conv_mode)
        with progress_bar(console, processes.is_main_process) as progress:
            runs_of = list(zip(plans, runs, strict=True))
            metrics = evaluate(
                subject, task, runs_of, arguments.batch_size, progress, processes, not arguments.encode_each
            )
        failed = sum(figures["failed"] for figures in metrics)
    if not processes.is_main_process:
        return
    if failed:
        logger.warning(
            "%d questions failed; their lines in predictions.jsonl say why, --retry-failed asks them again", failed
        )
    rows, _ = collect([one.folder for one in runs])
    show(rows, console=console)
    rows, unfinished = collect([results])
    write(rows, results, unfinished)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    given = parser().parse_args(arguments)
    stopped = "stopped; every answer given so far is kept, the same command goes on from there"
    return exit_code(lambda: run(given, terminal()), stopped=stopped)


if __name__ == "__main__":
    sys.exit(main())

"""Models x plans x a task, into folders that a report can be made of: what every evaluation of this package goes through.

``measure`` does what a command line asks for; ``evaluate`` is its core, with a subject and open folders in hand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import Progress

from llava.cli.console import progress_bar, terminal
from llava.cli.settings import PlanSpec
from llava.files import read_json
from llava.reduction import Stage, plan_name

from ..results.folder import Run, summarise_cost
from ..tasks.base import Example, Line, Task
from .configuration import run_configuration
from .controls import is_adaptive, with_controls
from .loop import Answer, answers
from .opening import Evaluation
from .plans import requested_plans
from .pricing import method_label, pricing_of
from .record import record_samples, runs_without_samples
from .subject import Generation, LlavaSubject, Subject

logger = logging.getLogger(__name__)


def measure(
    evaluation: Evaluation,
    plans: Sequence[list[Stage]],
    load: Callable[[torch.device | None], Subject] | None = None,
    console: Console | None = None,
) -> list[tuple[Run, dict]]:
    """Answer an evaluation's questions under every plan, each in its folder of the results.

    Returns the closed runs with their metrics. What a stopped command has answered is not asked again. load: loads the
    subject that answers, on the device that this process has been given (None: as the settings say); by default the
    evaluation's model. It is called only when something is left to ask. Started by ``accelerate launch``, every process
    but the first has an empty list. Raises ValueError and OSError as ``Run`` does.
    """
    settings, task = evaluation.settings, evaluation.task
    device, processes = str(settings.model.device or ""), _processes(evaluation)
    logger.setLevel(logging.INFO if processes.is_main_process else logging.ERROR)
    with ExitStack() as stack:
        runs = _open_runs(evaluation, plans, processes, stack)
        done, total = sum(len(run.done) for _, run in runs), len(runs) * len(task.examples)
        if done:
            logger.info("%d of %d answers are there already", done, total)
        unseen = runs_without_samples(runs) if settings.samples and processes.is_main_process else []
        subject = None
        if done < total or unseen:
            process_device = processes.device if processes.num_processes > 1 and not device else None
            subject = (load or evaluation.model.subject)(process_device)
        with progress_bar(console or terminal(), processes.is_main_process) as progress:
            metrics = evaluate(subject, task, runs, settings.batch_size, progress, processes, not settings.encode_each)
        if isinstance(subject, LlavaSubject) and unseen:
            record_samples(subject, task, unseen, settings.samples, settings.batch_size)
    failed = sum(figures["failed"] for figures in metrics)
    if failed:
        logger.warning(
            "%d questions failed; their lines in predictions.jsonl say why, --retry-failed asks them again", failed
        )
    return [(run, figures) for (_, run), figures in zip(runs, metrics)]


def _processes(evaluation: Evaluation) -> PartialState:
    """The processes that share the work, on the device that the settings name."""
    device = str(evaluation.settings.model.device or "")
    return PartialState(cpu=device.startswith("cpu") or not torch.cuda.is_available())


def _open_runs(
    evaluation: Evaluation, plans: Sequence[list[Stage]], processes: PartialState, stack: ExitStack
) -> list[tuple[list[Stage], Run]]:
    """The plans with their folders, each open until the stack closes; on request, failed questions are forgotten."""
    settings, runs = evaluation.settings, []
    with processes.main_process_first():
        for plan in plans:
            config = run_configuration(evaluation, plan)
            run = Run(evaluation.results / plan_name(plan), config, processes.process_index)
            runs.append((plan, stack.enter_context(run)))
        if settings.retry_failed and processes.is_main_process:
            logger.info("%d failed questions are asked again", sum(run.retry_failed() for _, run in runs))
    return runs


def measure_with_controls(
    evaluation: Evaluation, spec: PlanSpec, console: Console | None = None
) -> list[tuple[Run, dict]]:
    """``measure`` of the plans of a spec and, unless it wants none, of the controls that they must beat.

    Where the pictures decide how many tokens a plan keeps, its controls cost what it really kept: it is measured first.
    """
    load = cache(evaluation.model.subject)
    if (spec.match or "").startswith("latency") and _processes(evaluation).num_processes > 1:
        raise ValueError(f"--match {spec.match}: time is measured by one process, and several run; start one")
    plans = requested_plans(evaluation, spec, lambda: load(None))
    if spec.controls:
        adaptive = [plan for plan in plans if any(map(is_adaptive, plan))]
        if adaptive:
            measure(evaluation, adaptive, load, console)
            PartialState().wait_for_everyone()  # the first process has written what the others read
        measured = {plan_name(plan): kept_per_layer(evaluation.results / plan_name(plan)) for plan in adaptive}
        kept = {name: layers for name, layers in measured.items() if layers is not None}
        plans = with_controls(plans, evaluation.model.layers, pricing_of(evaluation), kept)
    return measure(evaluation, plans, load, console)


def kept_per_layer(folder: Path) -> list[float] | None:
    """Mean visual tokens of each layer in a finished run; None where no question was answered."""
    return read_json(folder / "cost.json").get("visual_per_layer")


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
    folders; the first gathers them, and the others return nothing. Raises what the model raises, keeping the answers
    until then, and ValueError for ``subject`` None where an answer is missing.
    """
    progress = progress or Progress(disable=True)
    processes = processes or PartialState()
    share = (processes.process_index, processes.num_processes)
    total, done = len(task.examples) * len(runs), sum(len(run.done) for _, run in runs)
    bar = progress.add_task(task.name, total=total, completed=done)
    replies: Iterable[Answer] = ()
    if done < total:
        if subject is None:
            raise ValueError(f"subject=None, but {total - done} of {total} answers are missing; give what answers them")
        replies = answers(
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
    for answer in replies:
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
    fields = _question_fields(task, example, answer.prompt)
    if reply is None:
        return {**fields, "text": "", **task.score(example, ""), "correct": False, "error": answer.error}
    line = {
        **fields,
        "text": reply.text,
        **task.score(example, reply.text),
        "kept": reply.kept,
        "cost": reply.cost,
        "seconds": round(answer.seconds, 6),
        "tower_seconds": round(answer.tower_seconds, 6),
    }
    return line if reply.prefill_seconds is None else {**line, "prefill_seconds": round(reply.prefill_seconds, 6)}


def _question_fields(task: Task, example: Example, prompt: str) -> dict:
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

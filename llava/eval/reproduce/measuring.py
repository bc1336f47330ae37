"""A published row run with the evaluation's own loop: the unreduced model and the plan, in the figure that the paper prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from llava.cli.settings import PlanSpec
from llava.files import read_json

from ..ask.measure import measure_with_controls
from ..ask.opening import Evaluation
from ..results.folder import Run, read_predictions
from ..tasks.base import Line
from ..tasks.statistics import mean_ratio, ratio_interval, score_interval, total
from .published import Publication
from .rows import Printed

# The same weights under another name
PORTS = {"llava-1.5-7b-hf": "llava-v1.5-7b", "llava-1.5-13b-hf": "llava-v1.5-13b"}


@dataclass(frozen=True)
class Figure:
    """One line of a reproduction: what is printed, if anything, and what is measured, with its 95 % interval.

    ``difference`` is measured less published, None where nothing is printed or it does not apply to this model; its interval
    takes the published figure as exact. ``visual_tokens``: mean over the layers, as measured.
    """

    name: str
    published: float | None
    measured: float
    interval: list[float]
    difference: float | None
    difference_interval: list[float] | None
    visual_tokens: float | None


@dataclass(frozen=True)
class Reproduction:
    """A published row next to what was measured: the unreduced model, the plan, and, unless the former scores 0, their ratio.

    ``mean_tokens``: the mean tokens over the layers under the source's plan, where known. ``sampled``: only a part of
    the benchmark was asked. ``obstacles`` say why the published figures do not apply to what was measured; none where
    they do.
    """

    source: str
    method: str
    label: float
    accounting: str
    mean_tokens: float | None
    published_model: str
    model: str
    task: str
    metric: str
    plan: str
    questions: int
    sampled: bool
    failed: int
    obstacles: list[str]
    figures: list[Figure]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def reproduce(
    evaluation: Evaluation, printed: Printed, plan: str, console: Console | None = None
) -> Reproduction | None:
    """Run the unreduced model and ``plan`` on an evaluation's questions and compare both with a published row.

    Answers that the results folder holds already are not asked for again. None in every process but the first. Raises what
    ``measure_with_controls`` does, and ValueError where no question belongs to the printed figure.
    """
    finished = measure_with_controls(evaluation, PlanSpec(("full", plan), controls=False), console)
    if not finished:
        return None
    publication, row, task = printed.publication, printed.row, evaluation.task
    metric = publication.metrics[task.name]
    categories = task.printed[metric]
    (full, full_lines), (reduced, lines) = ((run, _lines(run, categories)) for run, _ in finished)
    if not lines:
        raise ValueError(f"no question of {task.file} belongs to {metric}, which {printed.name} prints; ask others")
    obstacles = _obstacles(evaluation, publication, metric, {line["category"] for line in lines})
    runs = [task.contributions(each) for each in (full_lines, lines)]
    base, score = publication.base.get(task.name), row.scores[task.name]
    applies = not obstacles
    figures = [
        _figure("full", base, total(runs[0]), score_interval([runs[0]]), applies, full),
        _figure(reduced.folder.name, score, total(runs[1]), score_interval([runs[1]]), applies, reduced),
    ]
    if total(runs[0]):
        pair = [([runs[1]], [runs[0]])]
        interval = [100 * bound for bound in ratio_interval(pair)]
        figures.append(
            _figure("ratio %", 100 * score / base if base else None, 100 * mean_ratio(pair), interval, applies)
        )
    return Reproduction(
        source=publication.name,
        method=row.method,
        label=row.label,
        accounting=row.accounting,
        mean_tokens=row.mean_tokens,
        published_model=publication.model,
        model=evaluation.model.spec.name,
        task=task.name,
        metric=metric,
        plan=reduced.folder.name,
        questions=len(lines),
        sampled=evaluation.settings.limit is not None,
        failed=sum("error" in line for line in (*full_lines, *lines)),
        obstacles=obstacles,
        figures=figures,
    )


def _lines(run: Run, categories: Sequence[str]) -> list[Line]:
    """The answers that a printed figure is over: those of its categories, or all."""
    lines = read_predictions(run.folder / "predictions.jsonl")
    return [line for line in lines if line["category"] in categories] if categories else lines


def _obstacles(evaluation: Evaluation, publication: Publication, metric: str, present: set[str]) -> list[str]:
    """How what was measured differs from what was published, in words."""
    spec, obstacles = evaluation.model.spec, []
    if PORTS.get(spec.name, spec.name) != publication.model.rpartition("/")[2]:
        obstacles.append(f"they are for {publication.model}, this is {spec.name}")
    if spec.bits:
        obstacles.append(f"these weights are in {spec.bits} bits")
    missing = [name for name in evaluation.task.printed[metric] if name not in present]
    if missing:
        obstacles.append(f"{metric} also counts {', '.join(missing)}, of which there is no question here")
    return obstacles


def _figure(
    name: str, published: float | None, measured: float, interval: list[float], applies: bool, run: Run | None = None
) -> Figure:
    tokens = read_json(run.folder / "cost.json").get("visual_tokens") if run else None
    if published is None or not applies:
        return Figure(name, published, measured, interval, None, None, tokens)
    difference_interval = [bound - published for bound in interval]
    return Figure(name, published, measured, interval, measured - published, difference_interval, tokens)

"""The cells of a grid: what plan stands in each, or why there can be none; written beside the runs for the page to read.

``RESULTS/MODEL/TASK/grid.json`` holds ``format``, ``model``, ``task``, ``means``, and ``cells``, each with its method's
``name`` and ``kind``, the ``mean`` (null for full and blind), the ``plan``, which is the name of the run's folder, and the
``reason`` why there is no run. With both, the plan was tried and the model refused it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llava.cli.settings import PlanSpec
from llava.files import read_json, require_fields, write_json
from llava.reduction import plan_from, plan_name

from ..ask.opening import Checkpoint
from ..ask.plans import plans_from
from ..ask.pricing import NEAR, Plan, Pricing, candidates
from .grid import Method, Model

FORMAT = 1
FILE = "grid.json"
STARTS = (
    "1.0",
    "0.5",
    "0.25",
    "0.1",
)  # budgets that a plan is spelled with before its own is chosen; not every plan can have each
HEAD = {"format": int, "model": str, "task": str, "means": list, "cells": list}
CELL = {"name": str, "kind": str, "mean": int | None, "plan": str | None, "reason": str | None}


@dataclass(frozen=True)
class Cell:
    """One place of the grid: the run's folder in ``plan``, or in ``reason`` why there is none; both: it was refused."""

    name: str
    kind: str
    mean: int | None
    plan: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Job:
    """A cell with the plan itself and the share of the dense prefill's operations that it takes; None where it has none."""

    cell: Cell
    plan: Plan | None = None
    share: float = 0.0


def empty(method: Method, means: Sequence[int], reason: str) -> list[Cell]:
    """The cells of a method that have no run, all for one reason."""
    places: Iterable[int | None] = [None] if method.bound else means
    return [Cell(method.name, method.kind, mean, reason=reason) for mean in places]


def jobs(model: Model, checkpoint: Checkpoint, methods: Sequence[Method], means: Sequence[int]) -> list[Job]:
    """Every cell of a model, mean by mean, with its plan, or with the reason why the model cannot have it.

    Budgets are chosen so that the plan's mean visual tokens over the layers are nearest to the cell's mean, within 5 %; a
    smaller picture has the nearest square. Raises ValueError for a plan that is not spelled as one, and for a word in braces
    that the model gives no value.
    """
    made: dict[int | None, list[Job]] = {mean: [] for mean in (None, *means)}
    pricing = None if checkpoint.tokens is None else Pricing(checkpoint.config, checkpoint.tokens)
    for method in methods:
        plan_from(spelled(method, model), float(STARTS[0]))
        if pricing is None and not method.bound:
            reason = "this model cuts pictures into crops, so that their tokens differ and no mean can be chosen"
            found = [Job(cell) for cell in empty(method, means, reason)]
        else:
            found = _priced(method, model, checkpoint, pricing, means)
        for job in found:
            made[job.cell.mean].append(job)
    return [job for mean in made for job in made[mean]]


def _priced(
    method: Method, model: Model, checkpoint: Checkpoint, pricing: Pricing | None, means: Sequence[int]
) -> list[Job]:
    """The cells of one method: its budgets are priced once for all means."""
    try:
        plans = _possible(method, model, checkpoint, pricing)
    except ValueError as error:
        return [Job(cell) for cell in empty(method, means, str(error))]
    if method.bound or pricing is None:
        (plan,) = plans
        share = 1.0 if pricing is None else pricing.flops(plan)
        return [Job(Cell(method.name, method.kind, None, plan_name(plan)), plan, share)]
    if not plans:
        return [Job(cell) for cell in empty(method, means, "the plan has no budget to choose")]
    costs, found = [pricing.visual(plan) for plan in plans], []
    for mean in means:
        best = min(range(len(plans)), key=lambda place: abs(costs[place] - mean))
        plan, cell = plans[best], Cell(method.name, method.kind, mean)
        if abs(costs[best] - mean) > NEAR * mean and not all(stage.site == "pixels" for stage in plan):
            nearest = f"its nearest mean is {costs[best]:.1f} tokens, with {'+'.join(map(str, plan))}"
            found.append(Job(replace(cell, reason=nearest)))
        else:
            found.append(Job(replace(cell, plan=plan_name(plan)), plan, pricing.flops(plan)))
    return found


def _possible(method: Method, model: Model, checkpoint: Checkpoint, pricing: Pricing | None) -> list[Plan]:
    """The plan under every budget it can have; for full and blind, the plan itself.

    Raises the ValueError of the first budget that was tried where the model can have none of those that were tried.
    """
    refusal = None
    for keep in STARTS:
        try:
            (plan,) = plans_from(PlanSpec((spelled(method, model, keep),)), checkpoint.config, float(keep))
            return [plan] if method.bound or pricing is None else candidates(plan, pricing)
        except ValueError as error:
            refusal = refusal or error
    raise refusal or ValueError(f"{method.plan} has no budget")


def spelled(method: Method, model: Model, keep: str = STARTS[0]) -> str:
    """A method's plan with a model's values, and with the budget ``keep`` where it has none of its own.

    Raises ValueError for a word in braces without a value.
    """
    try:
        text = method.plan.format_map(model.values)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{method.name}: {method.plan} has a word in braces, {error}, that the values of {model.name} do not hold; "
            f"they hold {', '.join(model.values) or 'nothing'}"
        ) from None
    if method.bound or ":" in text:
        return text
    name, comma, options = text.partition(",")
    return f"{name}:{keep}{comma}{options}"


def write_cells(folder: Path, model: str, task: str, means: Sequence[int], cells: Sequence[Cell]) -> None:
    """Write ``grid.json``; the folder is made. Raises OSError as ``write_json`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    head = {"format": FORMAT, "model": model, "task": task, "means": list(means)}
    write_json(folder / FILE, {**head, "cells": [asdict(cell) for cell in cells]})


def read_cells(file: Path) -> tuple[dict[str, Any], list[Cell]]:
    """The head of a ``grid.json`` and its cells. Raises ValueError naming the file that is not one, and FileNotFoundError."""
    content = read_json(file, hint="remove it and give the command llava leaderboard run again")
    require_fields(str(file), content, HEAD)
    if content["format"] != FORMAT:
        raise ValueError(
            f"{file} is of format {content['format']}, this version reads {FORMAT}; remove it and run again"
        )
    cells = []
    for number, entry in enumerate(content["cells"], start=1):
        require_fields(f"{file}, cell {number}", entry, CELL)
        cells.append(Cell(**{name: entry.get(name) for name in CELL}))
    return content, cells

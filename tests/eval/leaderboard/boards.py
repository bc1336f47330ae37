"""Small leaderboards of finished runs, as ``llava leaderboard run`` leaves them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava.eval.leaderboard.cells import Cell, write_cells
from llava.eval.tasks.base import Task
from llava.eval.tasks.mme import Mme
from llava.files import write_json
from tests.eval.folders import add_samples, make_run, questions

KEYS = questions(pictures=8)
MEANS = (64, 16)
# Each method's kind, its plan at a mean, and the share of its answers that are wrong there
METHODS: Mapping[str, tuple[str, str, Sequence[float]]] = {
    "random": ("control", "random:{}", (0.35, 0.45)),
    "downsample": ("control", "downsample:{}", (0.4, 0.5)),
    "divprune": ("before", "divprune:{}", (0.02, 0.1)),
    "scope": ("before", "scope:{}", (0.02, 0.15)),
    "fastervlm": ("before", "fastervlm:{}", (0.2, 0.3)),
    "hired": ("before", "hired:{}", (0.25, 0.25)),
    "fastv": ("inside", "fastv@1:{}", (0.3, 0.0)),
}


def make_board(
    root: Path,
    model: str = "shapes",
    task: str = "mme",
    kind: type[Task] = Mme,
    keys: Sequence[str] = tuple(KEYS),
    methods: Mapping[str, tuple[str, str, Sequence[float]]] = METHODS,
    means: Sequence[int] = MEANS,
    samples: Sequence[str] = (),
    grid: bool = True,
) -> Path:
    """The runs of a model on a task below ``root``, with ``grid.json`` where wanted; the same arguments, the same runs.

    ``fastv`` cannot have a mean of 16. ``samples``: keys of the questions whose kept patches are stored.
    """
    folder, cells = (
        root / model / task,
        [Cell("full", "control", None, "full"), Cell("blind", "control", None, "blind")],
    )
    about = {"kind": kind, "keys": keys, "name": f"llava-{model}"}
    make_run(folder, "full", **about)
    _at(make_run(folder, "blind", keys[::2], **about), 0, 0)
    for name, (where, plan, shares) in methods.items():
        for mean, share in zip(means, shares, strict=True):
            if name == "fastv" and mean == 16:
                cells.append(Cell(name, where, mean, reason="its nearest mean is 41.1 tokens, with fastv@1:0"))
                continue
            wrong = random.Random(f"{model} {task} {name} {mean}").sample(keys, round(share * len(keys)))
            run = make_run(folder, plan.format(mean), wrong, **about)
            _at(run, mean, 576 if where == "inside" else mean)
            cells.append(Cell(name, where, mean, run.name))
            if samples:
                add_samples(run, samples, [0, 5, 10])
    if grid:
        write_cells(folder, f"llava-{model}", task, means, cells)
    return folder


def _at(folder: Path, mean: float, entering: float) -> None:
    """Give a run its mean visual tokens, and those that enter."""
    cost = json.loads((folder / "cost.json").read_text())
    later = (4 * mean - entering) / 3
    cost.update(visual_tokens=mean, visual_per_layer=[entering, later, later, later], total_flops=2e9 + 1e8 * mean)
    write_json(folder / "cost.json", cost)

"""From all visual tokens down to a few: what is left of accuracy, and of the rank of the last layer's attention.

    python -m llava.experiments.rank_sweep --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --method text_weighted --pruning-layer 2 --num-samples 50

Document 004's experiment: 576 tokens, 566, ... 16, which is 57 points. Every point is evaluated for real: from layer K on
the other tokens are gone, by the attention of layer K-1. (The documents' program never prunes; it ranks by the attention of
layer K itself and only restricts the statistic, so its accuracy is one number at every point.) The ranks are those of the last layer's
picture-to-picture block, (kept, kept) per head, mean over heads and questions; the keys name the layer,
``layer31_effective_ranks`` for a model of 32 layers and ``layer13_effective_ranks`` for one of 14. What the points have
in common is computed once per picture: the tower and the layers before K.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from llava.analysis.figures import layer_curve
from llava.analysis.numbers import rounded
from llava.analysis.observe import LayerAttention, Rope, prefills
from llava.analysis.prefix import SharedPrefix
from llava.analysis.rank import map_ranks
from llava.cli.console import launch
from llava.eval.ask.subject import Generation, Reply
from llava.eval.report.panels import Panel, draw
from llava.eval.tasks.base import list_tasks
from llava.reduction import Stage, make_stage
from llava.reduction.cost import decoder_flops

from .command import experiment_settings, save
from .command import parser as common
from .settings import ExperimentSettings
from .sweep import Experiment, Outcome, Sweep
from .tables import cost_table

METHODS = ("fastv", "text_weighted")
RANKS = {  # the key of the JSON, after the layer, and the measurement
    "numeric_ranks": "numeric_rank",
    "effective_ranks": "effective_rank",
    "effective_ranks_roy_vetterli": "effective_rank_roy_vetterli",
}


class Ranked(SharedPrefix):
    """Answers as ``subject`` does and adds to each reply's cost the ranks of the last layer's picture-to-picture block.

    It also adds ``rank_seconds``, the time this took, and ``reused_flops``, those of the shared layers where they did
    not run again.
    """

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """Replies with the ranks of the tokens that were really left."""
        last, held = len(self.decoder.layers) - 1, []

        def keep(_number: int, entered: Tensor, rope: Rope) -> None:
            held[:] = [entered, rope]

        with prefills(self.decoder, [last], keep):
            replies = super().answer(texts, features, plan, generation)
        return [replace(reply, cost={**reply.cost, **self._more(row, *held)}) for row, reply in enumerate(replies)]

    @torch.inference_mode()
    def _more(self, row: int, entered: Tensor, rope: Rope) -> dict[str, float]:
        start, ledgers = time.perf_counter(), self.decoder.last_ledgers
        number = len(ledgers) - 1
        attention = LayerAttention(number, self.decoder.layers[number], entered, rope, ledgers[number], ledgers[0], row)
        ranks = map_ranks(attention.block("visual", "visual"))
        rows = [int(ledger.row_counts()[row]) for ledger in ledgers[: self.layers if self.replayed else 0]]
        reused = decoder_flops(self.decoder.config, rows) - decoder_flops(self.decoder.config, [])
        return {**ranks, "rank_seconds": time.perf_counter() - start, "reused_flops": reused}


@dataclass(frozen=True)
class Grid:
    """The budgets of a sweep: all tokens, then ``step`` fewer, down to ``least``; tokens go from ``layer`` on."""

    layer: int = 2
    step: int = 10
    least: int = 16


class RankExperiment(Experiment):
    """The questions and the model of an experiment, and its grid of budgets.

    Raises ValueError for a layer or a grid that the model does not have, and where pictures differ in their number of tokens.
    """

    def __init__(self, name: str, settings: ExperimentSettings, grid: Grid):
        super().__init__(name, settings)
        self.grid = grid
        if not 1 <= grid.layer < self.layers:
            raise ValueError(f"--pruning-layer {grid.layer} must be 1 to {self.layers - 1}, the model's last")
        tokens = self.span()[1]
        if tokens is None:
            raise ValueError(
                "pictures of this model differ in their number of tokens; the sweep needs one that is fixed"
            )
        if grid.step < 1 or not 1 <= grid.least <= tokens:
            raise ValueError(
                f"--step {grid.step} must be at least 1 and --least {grid.least} between 1 and the {tokens} tokens of a picture"
            )
        self.budgets = range(tokens, grid.least - 1, -grid.step)

    def subject(self, device: torch.device | None = None) -> Ranked:
        """The model, with what its budgets have in common computed once."""
        return Ranked(self.model.subject(device), self.grid.layer)

    def curve(self, method: str) -> dict[int, list[Stage]]:
        """A plan for every budget."""
        return {keep: [make_stage(method, layer=self.grid.layer, keep=keep)] for keep in self.budgets}


def rank_table(curve: Mapping[int, Outcome], last: int, dense: Outcome) -> dict:
    """A curve as the documents' JSON, one entry per budget, with what ours adds: intervals, right answers, cost.

    ``correct`` is one string of 0 and 1 per budget, in the order of ``pictures``.
    """
    outcomes = list(curve.values())
    ranks = {f"layer{last}_{key}": [outcome.cost[name] for outcome in outcomes] for key, name in RANKS.items()}
    return {
        "tokens": list(curve),
        "accuracies": [outcome.metrics["accuracy"] for outcome in outcomes],
        **ranks,
        "accuracy_intervals": [outcome.metrics["accuracy_interval"] for outcome in outcomes],
        "correct": ["".join(str(int(line["correct"])) for line in outcome.lines) for outcome in outcomes],
        "price": price(outcomes, dense),
        **cost_table(curve),
    }


def price(outcomes: Sequence[Outcome], dense: Outcome) -> dict[str, float]:
    """What a curve cost, next to as many dense runs, each with its own pass through the tower.

    FLOPs are of the rows that really entered every layer, tower and shared layers counted once; seconds are those of the
    run, without the time for the ranks. ``dense`` is the sweep's very first point, which has every token and nothing to
    share.
    """

    def answered(outcome: Outcome) -> list[dict]:
        return [line for line in outcome.lines if "error" not in line]

    def seconds(outcome: Outcome) -> float:
        return sum(line["seconds"] - line["cost"]["rank_seconds"] for line in answered(outcome))

    def flops(outcome: Outcome, *less: str) -> float:
        return sum(line["cost"]["total_flops"] - sum(line["cost"][name] for name in less) for line in answered(outcome))

    first = answered(dense)
    by_picture = {line["picture"]: line for line in first}.values()
    spent = sum(flops(outcome, "tower_flops", "reused_flops") for outcome in outcomes)
    spent += sum(line["cost"]["tower_flops"] for line in by_picture)
    took = sum(map(seconds, outcomes)) + sum(line["tower_seconds"] for line in by_picture)
    dense_flops = len(outcomes) * flops(dense)
    dense_seconds = len(outcomes) * (seconds(dense) + sum(line["tower_seconds"] for line in first))
    return {
        "gflops": spent / 1e9,
        "gflops_of_dense_runs": dense_flops / 1e9,
        "gflops_ratio": spent / dense_flops,
        "seconds": took,
        "seconds_of_dense_runs": dense_seconds,
        "seconds_ratio": took / dense_seconds,
    }


def draw_ranks(curves: Mapping[str, Mapping[int, Outcome]], full: Outcome, last: int, title: str) -> Figure:
    """Accuracy and the two effective ranks over the number of tokens kept, with 95 % intervals."""

    def accuracy(outcome: Outcome) -> tuple[float, list[float]]:
        metrics = outcome.metrics
        return 100 * metrics["accuracy"], [100 * bound for bound in metrics["accuracy_interval"]]

    def rank(outcome: Outcome, name: str) -> tuple[float, list[float]]:
        lines = [line for line in outcome.lines if "error" not in line]
        return layer_curve(np.array([[line["cost"][name]] for line in lines]), lines)[0]

    panels = [
        Panel(
            "accuracy, %",
            {name: {at: accuracy(outcome) for at, outcome in curve.items()} for name, curve in curves.items()},
            {"full": accuracy(full)},
        )
    ]
    for measured, label in (
        ("effective_rank", "document 004"),
        ("effective_rank_roy_vetterli", "Roy and Vetterli"),
    ):
        panels.append(
            Panel(
                f"effective rank of layer {last} ({label})",
                {
                    name: {at: rank(outcome, measured) for at, outcome in curve.items()}
                    for name, curve in curves.items()
                },
            )
        )
    return draw(panels, title, "visual tokens kept")


def content(experiment: RankExperiment, sweep: Sweep, method: str) -> dict:
    """The JSON of one method's sweep: its table, that of the random control, and the full model's accuracy."""
    last = experiment.layers - 1
    full, dense = sweep.references["full"], next(iter(sweep.curves[method].values()))
    return rounded(
        {
            "method": method,
            "pruning_layer": experiment.grid.layer,
            "last_layer": last,
            "task": experiment.task.name,
            "pictures": [line["picture"] for line in full.lines],
            **rank_table(sweep.curves[method], last, dense),
            "baseline_acc": full.metrics["accuracy"],
            "controls": {
                name: rank_table(curve, last, dense) for name, curve in sweep.curves.items() if name not in METHODS
            },
        }
    )


def parser(method: str | None = None, output: str = "{method}_layer{layer}_rank_sweep") -> argparse.ArgumentParser:
    """The common flags of experiments and the grid's; a script names its ``method`` and its documented ``output``.

    ``output`` is a file name without ending, in which {method} and {layer} are filled in.
    """
    flags = common(__doc__, f"{output}.json", f"{output}.png")
    flags.set_defaults(output_file=None, output_plot=None, method=method, output=output)
    group = flags.add_argument_group("sweep")
    if method is None:
        group.add_argument("--method", choices=METHODS, default=METHODS[0], help="default: %(default)s")
    group.add_argument("--task", default="scienceqa", help=f"one of {', '.join(list_tasks())} (default: scienceqa)")
    layer = "tokens go from this layer on, by the attention of the one before (default: %(default)s)"
    group.add_argument("--pruning-layer", "--pruning_layer", type=int, default=2, help=layer)
    group.add_argument("--step", type=int, default=10, help="tokens between two budgets (default: 10)")
    group.add_argument("--least", type=int, default=16, help="the smallest budget (default: 16)")
    flags.set_defaults(num_samples=50)
    return flags


def run(settings: ExperimentSettings, method: str, grid: Grid) -> None:
    """Evaluate, write JSON and figure. Raises ValueError and OSError that name the flag."""
    experiment = RankExperiment(f"rank-{settings.evaluation.task}", settings, grid)
    sweep = experiment.sweep({method: experiment.curve(method)})
    title = f"{experiment.about}: {method} from layer {grid.layer} on"
    figure = draw_ranks(sweep.curves, sweep.references["full"], experiment.layers - 1, title)
    save(settings, content(experiment, sweep, method), figure)


def work(options: argparse.Namespace) -> None:
    """Run what a command line asks for."""
    stem = options.output.format(method=options.method, layer=options.pruning_layer)
    settings = experiment_settings(options.task, options, Path(f"{stem}.json"), Path(f"{stem}.png"))
    run(settings, options.method, Grid(options.pruning_layer, options.step, options.least))


def main(arguments: Sequence[str] | None = None, flags: argparse.ArgumentParser | None = None) -> int:
    """The command line, or that of a script with ``flags`` of its own; returns 0, 2 for bad input, 130 when stopped."""
    return launch(flags or parser(), work, arguments)


if __name__ == "__main__":
    sys.exit(main())

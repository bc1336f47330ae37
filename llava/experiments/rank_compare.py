"""Two or more rank sweeps side by side, with their random control: which way of choosing tokens is better, if any.

    python -m llava.experiments.rank_compare fastv_rank_experiment.json fastv_textweighted_layer2_experiment.json \
        --output-plot rank_comparison.png

reads the JSON files of ``rank_sweep`` alone, needs no model, prints a table and draws accuracy and effective rank. The
comparison is over the budgets that both have and the same questions: the difference of mean accuracy over the budgets,
with its 95 % bootstrap interval over pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from llava.analysis.numbers import rounded
from llava.cli.console import launch, terminal
from llava.cli.tables import print_table
from llava.eval.report.panels import Panel, draw
from llava.eval.tasks.statistics import Contributions, difference_interval, verdict
from llava.files import read_json, write_json


@dataclass(frozen=True)
class Ranks:
    """One sweep as its file describes it: how tokens were chosen and from which layer on; for every budget the right answers (n,), the effective rank, and the interval of accuracy; the picture of every question."""

    method: str
    layer: int
    pictures: list[str]
    correct: dict[int, np.ndarray]
    effective: dict[int, float]
    intervals: dict[int, list[float]]

    @classmethod
    def of(cls, method: str, held: dict, table: dict) -> Ranks:
        """From what a file of ``rank_sweep`` holds, and one of its tables."""
        tokens = table["tokens"]
        right = [np.array([int(mark) for mark in marks], dtype=float) for marks in table["correct"]]
        return cls(
            method,
            held["pruning_layer"],
            held["pictures"],
            dict(zip(tokens, right, strict=True)),
            dict(zip(tokens, table[f"layer{held['last_layer']}_effective_ranks"], strict=True)),
            dict(zip(tokens, table["accuracy_intervals"], strict=True)),
        )

    @property
    def name(self) -> str:
        """As a plan is written, without its budget."""
        return f"{self.method}@{self.layer}"

    def mean_correct(self, budgets: Sequence[int]) -> np.ndarray:
        """For every question, the share of the budgets at which it was answered correctly: (n,)."""
        return np.mean([self.correct[budget] for budget in budgets], axis=0)


def read(file: Path) -> list[Ranks]:
    """The method of a file, then its controls. Raises ValueError naming the file where it is no rank sweep."""
    try:
        held = read_json(file)
        tables = {held["method"]: held, **held["controls"]}
        return [Ranks.of(method, held, table) for method, table in tables.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not what rank_sweep writes ({error}); make it with that") from None


def compare(first: Ranks, second: Ranks) -> dict:
    """The difference of mean accuracy of two sweeps over the budgets they share, in points of per cent, with interval and verdict.

    Raises ValueError where they asked different questions or share no budget.
    """
    budgets = [budget for budget in first.correct if budget in second.correct]
    if first.pictures != second.pictures or not budgets:
        what = "other questions" if budgets else "no budget in common"
        raise ValueError(
            f"{first.name} and {second.name} have {what}; compare sweeps of one benchmark, samples and grid"
        )
    percent = [100 * sweep.mean_correct(budgets) for sweep in (first, second)]
    names = list(dict.fromkeys(first.pictures))
    member = np.array(names)[:, None] == np.array(first.pictures)
    runs, other_runs = ([Contributions(member @ values, member.sum(1), limit=100.0)] for values in percent)
    interval = difference_interval(runs, other_runs)
    ranks = [np.mean([sweep.effective[budget] for budget in budgets]) for sweep in (first, second)]
    return {
        "first": first.name,
        "second": second.name,
        "budgets": len(budgets),
        "accuracy": [float(values.mean()) for values in percent],
        "difference": float((percent[0] - percent[1]).mean()),
        "interval": interval,
        "verdict": verdict(interval),
        "effective_rank": ranks,
    }


def draw_comparison(sweeps: Sequence[Ranks]) -> Figure:
    """Accuracy and effective rank over the number of tokens kept."""
    layers = {sweep.layer for sweep in sweeps}
    # Named by its method alone, the control is drawn in grey.
    names = [sweep.method if len(layers) == 1 else sweep.name for sweep in sweeps]
    accuracy = {
        name: {
            budget: (100 * right.mean(), [100 * bound for bound in sweep.intervals[budget]])
            for budget, right in sweep.correct.items()
        }
        for name, sweep in zip(names, sweeps)
    }
    effective = {
        name: {budget: (rank, [rank, rank]) for budget, rank in sweep.effective.items()}
        for name, sweep in zip(names, sweeps)
    }
    panels = [Panel("accuracy, %", accuracy), Panel("effective rank of the last layer (document 004)", effective)]
    where = f"from layer {', '.join(map(str, sorted(layers)))} on"
    return draw(panels, f"{len(sweeps[0].pictures)} questions, tokens reduced {where}", "visual tokens kept")


def run(options: argparse.Namespace) -> None:
    """Compare every two sweeps, print, and write files."""
    sweeps = list({sweep.name: sweep for file in options.files for sweep in read(file)}.values())
    if len(sweeps) < 2:
        raise ValueError(f"{options.files[0]} holds one sweep alone; give another file, or one with its random control")
    comparisons = [compare(one, other) for place, one in enumerate(sweeps) for other in sweeps[place + 1 :]]
    table = Table(title="mean accuracy over the budgets, %", title_justify="left")
    for head in ("first", "second", "accuracies", "difference", "95 %", "first is"):
        table.add_column(head, justify="left" if head in ("first", "second", "first is") else "right")
    for row in comparisons:
        low, high = row["interval"]
        accuracies = " / ".join(f"{value:.1f}" for value in row["accuracy"])
        table.add_row(
            row["first"],
            row["second"],
            accuracies,
            f"{row['difference']:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            row["verdict"],
        )
    print_table(table, terminal())
    write_json(options.output_file, rounded(comparisons))
    draw_comparison(sweeps).savefig(options.output_plot)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.experiments.rank_compare", description="Rank sweeps side by side."
    )
    flags.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON of rank_sweep")
    for name, default in (("output-file", "rank_comparison.json"), ("output-plot", "rank_comparison.png")):
        flag = (f"--{name}", f"--{name.replace('-', '_')}")
        flags.add_argument(*flag, type=Path, default=Path(default), help="default: %(default)s")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""The leaderboard's runs as one table, a row a method and a column a mean of visual tokens over the layers.

    python scripts/leaderboard_table.py playground/results/leaderboard > table.md

Reads ``report.csv``, which ``python -m llava.eval.report`` writes there. A cell is the accuracy in per cent; bold is better
than random tokens at that cost after correction for all comparisons, struck through worse.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterable
from pathlib import Path

MEANS = (192, 128, 64, 32, 16)
CLOSE = 0.05  # a plan is at a mean if its own differs by no more than this share
MARKS = {"better": "**{}**", "worse": "~~{}~~"}


def method_of(plan: str) -> str:
    """A plan's name without its budget, which differs from mean to mean, and without the seed of a control."""
    return re.sub(r"_seed=\d+| \(\d+ seeds\)", "", re.sub(r"-[\d.]+(?=$|_|\+| )", "", plan))


def mean_of(tokens: float) -> int | None:
    """The mean that so many tokens stand for; None for none of them."""
    return next((mean for mean in MEANS if abs(tokens - mean) <= CLOSE * mean), None)


def table(rows: Iterable[dict[str, str]]) -> str:
    """The table in Markdown: full and blind first, then by accuracy at the means that most methods have."""
    cells: dict[str, dict[int, str]] = {}
    values: dict[str, dict[int, float]] = {}
    bounds: dict[str, float] = {}
    for row in rows:
        accuracy, mean = 100 * float(row["accuracy"]), mean_of(float(row["visual_tokens"]))
        name = method_of(row["plan"])
        if name in ("full", "blind"):
            bounds[name] = accuracy
        elif mean is not None:
            values.setdefault(name, {})[mean] = accuracy
            cells.setdefault(name, {})[mean] = MARKS.get(row["vs_random_verdict"], "{}").format(f"{accuracy:.1f}")

    def rank(name: str) -> tuple[float, float]:
        return -values[name].get(64, 0.0), -max(values[name].values())

    lines = ["| plan | " + " | ".join(map(str, MEANS)) + " |", "|---|" + "---:|" * len(MEANS)]
    lines += [f"| {name} | " + " | ".join([f"{value:.1f}"] * len(MEANS)) + " |" for name, value in bounds.items()]
    for name in sorted(values, key=rank):
        lines.append(f"| {name} | " + " | ".join(cells[name].get(mean, "") for mean in MEANS) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("results", type=Path, help="folder of the runs, with report.csv")
    file = flags.parse_args().results / "report.csv"
    with file.open(encoding="utf-8", newline="") as content:
        sys.stdout.write(table(csv.DictReader(content)))


if __name__ == "__main__":
    main()

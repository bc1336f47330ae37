"""Results folders to one table and one figure; nothing else is read, so a report needs no model.

    python -m llava.eval.report playground/results/quickstart

prints the table and writes ``report.md``, ``report.csv``, ``report.json`` and a curve for every task and model into the first
folder or ``--output``. A row never shows a score without its cost, and methods are compared at their mean visual tokens per
layer: "fastv@2:64" and "pool:64" are not the same budget.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llava.utils import exit_code

from .results import FORMAT, write_json

logger = logging.getLogger(__name__)

# Okabe and Ito's colours, which stay apart for every kind of colour vision; black is the reference lines'.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#6A3D9A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
REFERENCES = {"full": "--", "blind": ":"}
MS_NOTE = (
    "ms: median milliseconds a question in the run, projector, language model and answer; the vision tower runs once a "
    "picture and comes on top. GFLOPs: the prompt's, with tower. Brackets: 95 % bootstrap interval over pictures."
)


@dataclass(frozen=True)
class Row:
    """One finished run: its names, its score and accuracy with 95 % intervals, and its mean cost a question."""

    task: str
    model: str
    plan: str
    method: str
    score: float
    max_score: float
    score_interval: list[float]
    accuracy: float
    accuracy_interval: list[float]
    visual_tokens: float
    gflops: float
    kv_mb: float
    ms: float
    tower_ms: float
    questions: int
    failed: int
    note: str


def collect(paths: Iterable[str | Path]) -> tuple[list[Row], list[Path]]:
    """All finished runs in and under the folders, dearest first, and the folders of runs that are not finished.

    Raises FileNotFoundError when there is no run at all and ValueError naming a file that is not what it should be.
    """
    rows, unfinished = [], []
    folders = {file.parent for path in paths for file in Path(path).rglob("config.yaml")}
    for folder in sorted(folders):
        if (folder / "metrics.json").is_file() and (folder / "cost.json").is_file():
            rows.append(_row(folder))
        elif (folder / "predictions.jsonl").is_file():
            unfinished.append(folder)
    if not rows:
        stopped = f"; unfinished: {', '.join(map(str, unfinished))}" if unfinished else ""
        raise FileNotFoundError(
            f"no finished run in {', '.join(map(str, paths))}{stopped}; make one with llava.eval.run"
        )
    rows.sort(key=lambda row: (row.task, row.model, -row.visual_tokens, -row.score))
    return rows, unfinished


def _row(folder: Path) -> Row:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        held = config.get("format") if isinstance(config, dict) else None
        raise ValueError(f"{folder / 'config.yaml'} is of format {held}, this version reads {FORMAT}; run it anew")
    parts = {}
    for name in ("metrics", "cost"):
        file = folder / f"{name}.json"
        try:
            parts[name] = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is not JSON: {error}; remove it and give the run's command again") from None
    metrics, cost = parts["metrics"], parts["cost"]
    try:
        return Row(
            task=metrics["task"],
            model=config["model"]["name"],
            plan=metrics["plan"],
            method=metrics["method"],
            score=metrics["score"],
            max_score=metrics["max_score"],
            score_interval=metrics["score_interval"],
            accuracy=metrics["accuracy"],
            accuracy_interval=metrics["accuracy_interval"],
            visual_tokens=cost.get("visual_tokens", math.nan),
            gflops=cost.get("total_flops", math.nan) / 1e9,
            kv_mb=cost.get("kv_bytes", math.nan) / 1e6,
            ms=cost.get("ms_per_question", math.nan),
            tower_ms=cost.get("tower_ms_per_picture", math.nan),
            questions=metrics["questions"],
            failed=metrics["failed"],
            note=metrics.get("note", ""),
        )
    except KeyError as error:
        raise ValueError(f"{folder} has no {error} in its config.yaml or metrics.json; run it anew") from None


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table as text; task, model and failures are columns only where they differ or occur."""
    head, columns = [], []
    if len({row.task for row in rows}) > 1:
        head, columns = [*head, "task"], [*columns, [row.task for row in rows]]
    if len({row.model for row in rows}) > 1:
        head, columns = [*head, "model"], [*columns, [row.model for row in rows]]
    limits = {row.max_score for row in rows}
    of_limit = f" / {limits.pop():g}" if len(limits) == 1 else ""
    head += ["plan", f"score{of_limit}", "accuracy % [95 %]", "visual tokens", "GFLOPs", "KV MB", "ms"]
    columns += [
        [row.plan for row in rows],
        [f"{row.score:.1f}" if of_limit else f"{row.score:.1f} / {row.max_score:g}" for row in rows],
        [
            f"{100 * row.accuracy:.1f} [{100 * row.accuracy_interval[0]:.1f}, {100 * row.accuracy_interval[1]:.1f}]"
            for row in rows
        ],
        [f"{row.visual_tokens:.1f}" for row in rows],
        [f"{row.gflops:.2f}" for row in rows],
        [f"{row.kv_mb:.2f}" for row in rows],
        [f"{row.ms:.1f}" for row in rows],
    ]
    if any(row.failed for row in rows):
        head, columns = [*head, "failed"], [*columns, [str(row.failed) for row in rows]]
    return head, [list(line) for line in zip(*columns)]


def notes(rows: Sequence[Row], unfinished: Sequence[Path] = ()) -> list[str]:
    """What a reader of the table must know."""
    said = [f"{row.task}: {row.note}." for row in rows if row.note]
    said += [
        f"{row.plan}: {row.failed} of {row.questions} questions failed and count as wrong."
        for row in rows
        if row.failed
    ]
    said += [f"{folder} is not finished and not shown." for folder in unfinished]
    return [*dict.fromkeys(said), f"visual tokens: mean over decoder layers. {MS_NOTE}"]


def terminal() -> Console:
    """The terminal as it is, or lines long enough for every table where the output goes elsewhere."""
    return Console() if Console().is_terminal else Console(width=110)


def show(rows: Sequence[Row], unfinished: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print the table."""
    console = console or terminal()
    head, lines = cells(rows)
    title = " and ".join(dict.fromkeys(f"{row.model} on {row.task}" for row in rows))
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD)
    for name in head:
        text = name in ("task", "model", "plan")
        stacked = name.replace(" [", "\n[").replace(" / ", "\n/ ").replace("visual ", "visual\n")
        table.add_column(escape(stacked), justify="left" if text else "right", no_wrap=True)
    for row, line in zip(rows, lines):
        table.add_row(*map(escape, line), style="dim" if row.method in REFERENCES else "")
    console.print(table)
    for note in notes(rows, unfinished):
        console.print(note, style="dim", markup=False, highlight=False)


def write(rows: Sequence[Row], output: str | Path, unfinished: Sequence[Path] = ()) -> list[Path]:
    """Write ``report.md``, ``report.csv``, ``report.json`` and the curves; returns the files."""
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    pairs = list(dict.fromkeys((row.task, row.model) for row in rows))
    curves = []
    for task, model in pairs:
        file = output / ("curve.png" if len(pairs) == 1 else f"curve-{task}-{model}.png")
        draw_curve([row for row in rows if (row.task, row.model) == (task, model)]).savefig(file)
        curves.append(file)
    head, lines = cells(rows)
    ruled = ["| " + " | ".join(line) + " |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *lines)]
    pictures = [f"![score against visual tokens]({file.name})" for file in curves]
    text = "\n\n".join(["\n".join(ruled), *notes(rows, unfinished), *pictures]) + "\n"
    (output / "report.md").write_text(text, encoding="utf-8")
    with open(output / "report.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(_plain(rows[0])))
        table.writeheader()
        table.writerows(map(_plain, rows))
    write_json(output / "report.json", [asdict(row) for row in rows])
    return [*curves, *(output / f"report.{kind}" for kind in ("md", "csv", "json"))]


def _plain(row: Row) -> dict:
    """A row with its intervals as two columns each."""
    found = {}
    for name, value in asdict(row).items():
        found.update(
            {f"{name[:-9]}_low": value[0], f"{name[:-9]}_high": value[1]}
            if name.endswith("_interval")
            else {name: value}
        )
    return found


def draw_curve(rows: Sequence[Row]) -> Figure:
    """Score against mean visual tokens per layer: a line a method with 95 % bars, full and blind as reference lines."""
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    axes = figure.subplots()
    points = [row for row in rows if row.method not in REFERENCES and row.visual_tokens > 0]
    methods = list(dict.fromkeys(row.method for row in points))
    for number, method in enumerate(methods):
        line = sorted((row for row in points if row.method == method), key=lambda row: row.visual_tokens)
        # Methods at one budget would hide each other's bars: set them a hair apart.
        apart = 1.012 ** (number - (len(methods) - 1) / 2)
        axes.errorbar(
            [row.visual_tokens * apart for row in line],
            [row.score for row in line],
            yerr=list(zip(*((row.score - row.score_interval[0], row.score_interval[1] - row.score) for row in line))),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=6,
            linewidth=1.8,
            elinewidth=1,
            capsize=3,
            label=method,
            zorder=3,
        )
    for row in rows:
        if row.method in REFERENCES:
            axes.axhspan(*row.score_interval, color="black", alpha=0.05, linewidth=0)
            axes.axhline(row.score, color="#333333", linestyle=REFERENCES[row.method], linewidth=1.2, zorder=2)
            axes.annotate(
                f"{row.method}\n{row.score:.0f}",
                (1.01, row.score),
                xycoords=("axes fraction", "data"),
                va="center",
                color="#333333",
                fontsize=9,
                annotation_clip=False,
            )
    axes.set_xscale("log", base=2)
    if points:
        low, high = (choose(row.visual_tokens for row in points) for choose in (min, max))
        axes.set_xlim(low / 1.25, high * 1.25)
        exponents = range(math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 2)
        steps = (1, 1.5) if high / low < 8 else (1,)
        axes.xaxis.set_major_locator(FixedLocator([2**power * step for power in exponents for step in steps]))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("visual tokens, mean over decoder layers (log scale)")
    axes.set_ylabel(f"{rows[0].task.upper()} score (of {rows[0].max_score:g})")
    axes.set_title(
        f"{rows[0].model}: what visual tokens buy on {rows[0].task.upper()}", loc="left", fontsize=12, pad=12
    )
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if methods:
        figure.legend(loc="outside lower center", ncols=min(len(methods), 5), frameon=False)
    return figure


def parser() -> argparse.ArgumentParser:
    """Folders, and where to write."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.report", description="Results folders to a table and a curve."
    )
    flags.add_argument("folders", nargs="+", metavar="DIR", help="results folders; those under them are found")
    flags.add_argument("--output", help="where to write (default: the first folder)")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)

    def work() -> None:
        rows, unfinished = collect(given.folders)
        show(rows, unfinished)
        for file in write(rows, given.output or given.folders[0], unfinished):
            logger.info("wrote %s", file)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())

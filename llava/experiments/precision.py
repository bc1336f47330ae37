"""Number formats and quantised weights compared with full precision: does every method still keep the same tokens?

    python -m llava.eval.precision --model-path playground/checkpoints/llava-shapes-v1 --task mme \\
        --data playground/data/eval/MME-shapes --limit 200 --samples 100

Each of ``--precisions`` is a run of ``llava.eval.run`` under every plan, in ``RESULTS/PRECISION``; then the kept patches of the
stored pictures and all answers are compared with those of the first. Without ``--reduction`` one method of each sort (``PLANS``) is asked for
64 tokens. Written to ``RESULTS``: ``precision.md`` and ``precision.json``. Every other flag is that of ``llava.eval.run``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from llava.cli.console import launch, terminal
from llava.cli.settings import PlanSpec
from llava.eval import run as evaluation
from llava.eval.report.table import MISSING, Cell, Column, markdown
from llava.eval.results.folder import read_predictions
from llava.eval.results.samples import FILE, from_mask
from llava.files import read_json, write_json
from llava.reduction import did_you_mean, plan_from, plan_name
from llava.utils import installed

logger = logging.getLogger(__name__)

PRECISIONS = {
    "float32": {"dtype": "float32"},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "8bit": {"bits": 8},
    "4bit": {"bits": 4},
}
QUANTISED = ("8bit", "4bit")
# One of each sort that every LLaVA can run
PLANS = tuple(
    f"{name}:64"
    for name in (
        *("fastv", "text_weighted", "himap", "dart", "condensation", "custom_selection"),
        *("fastervlm", "visionzip", "prumerge", "divprune", "tome"),
        *("pool", "random"),
    )
)


@dataclass(frozen=True)
class Agreement:
    """A plan in one precision compared with the same plan in the reference.

    ``kept``: the mean share of the reference's tokens that are kept here too, after the last stage, and ``lowest`` that of
    the worst prompt, over ``prompts``; None where the plan keeps no record. ``answers``: the share of identical answers
    over all questions.
    """

    plan: str
    precision: str
    kept: float | None
    lowest: float | None
    prompts: int
    answers: float
    accuracy: float


def agreement(plan: str, precision: str, folder: Path, reference: Path) -> Agreement:
    """Compare two run folders of one plan. Raises ValueError for folders that were asked other questions."""
    answered, expected = (
        {line["key"]: line for line in read_predictions(at / "predictions.jsonl")} for at in (folder, reference)
    )
    if answered.keys() != expected.keys():
        raise ValueError(f"{folder} and {reference} were asked other questions; give another --results")
    shares = [
        len(kept & wanted) / len(wanted)
        for kept, wanted in zip(_kept(folder), _kept(reference), strict=True)
        if kept is not None and wanted
    ]
    return Agreement(
        plan,
        precision,
        float(np.mean(shares)) if shares else None,
        min(shares, default=None),
        len(shares),
        float(np.mean([line["text"] == expected[key]["text"] for key, line in answered.items()])),
        float(np.mean([line["correct"] for line in answered.values()])),
    )


def _kept(folder: Path) -> list[set[int] | None]:
    """What is left after the last stage of each stored prompt, in order of the questions."""
    samples = read_json(folder / FILE)["samples"]
    return [
        set(from_mask(sample["stages"][-1]["kept"], sample["patches"] ** 2)) if sample["stages"] else None
        for sample in sorted(samples, key=lambda sample: sample["key"])
    ]


def table(agreements: Sequence[Agreement]) -> list[Column]:
    """A row for every plan in every precision."""

    def share(value: float | None, digits: int = 1) -> Cell:
        return Cell(MISSING if value is None else f"{100 * value:.{digits}f}")

    return [
        Column("plan", [Cell(one.plan) for one in agreements], words=True),
        Column("precision", [Cell(one.precision) for one in agreements], words=True),
        Column("same tokens %", [share(one.kept) for one in agreements]),
        Column("worst prompt %", [share(one.lowest, 0) for one in agreements]),
        Column("same answers %", [share(one.answers) for one in agreements]),
        Column("accuracy %", [share(one.accuracy) for one in agreements]),
    ]


def show(columns: Sequence[Column], console: Console) -> None:
    """Print the table."""
    shown = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        shown.add_column(column.head, justify="left" if column.words else "right", overflow="fold")
    for cells in zip(*(column.cells for column in columns)):
        shown.add_row(*map(str, cells))
    console.print(shown)


def parser() -> argparse.ArgumentParser:
    """The flags of ``llava.eval.run``, and the precisions."""
    flags = evaluation.parser()
    flags.prog = "python -m llava.eval.precision"
    flags.description = "Compare what every method keeps and answers in several number formats."
    default = ",".join(PRECISIONS)
    flags.add_argument(
        "--precisions",
        help=f"some of {default}, with commas; the first is the reference (default: all that can be run here)",
    )
    return flags


def run(options: argparse.Namespace, console: Console) -> None:
    """Every precision through ``llava.eval.run``, then the comparison."""
    for name in ("dtype", "load_8bit", "load_4bit"):
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} contradicts --precisions, which sets it; leave it out")
    if options.samples < 1:
        raise ValueError(f"--samples {options.samples} must be at least 1; what is kept of those pictures is compared")
    precisions = _precisions(options.precisions)
    specs = options.reduction or PLANS
    results = options.results or Path("playground/results/precision")
    settings, plans = evaluation.eval_settings(options), PlanSpec(tuple(specs), controls=False)
    for precision in precisions:
        model = replace(settings.model, **PRECISIONS[precision])
        evaluation.run(replace(settings, model=model, results=results / precision), plans, console)
    agreements = []
    for name in (plan_name(plan_from(spec)) for spec in specs):
        folders = [results / precision / name for precision in precisions]
        agreements += [agreement(name, *pair, folders[0]) for pair in zip(precisions, folders)]
    columns = table(agreements)
    show(columns, console)
    note = (
        f"Same: as in {precisions[0]}. Tokens: of those kept there after the last stage the share kept here, mean over the "
        "stored prompts and the worst of them."
    )
    console.print(note, style="dim", markup=False, highlight=False)
    (results / "precision.md").write_text(f"{markdown(columns)}\n\n{note}\n", encoding="utf-8")
    write_json(results / "precision.json", {"reference": precisions[0], "rows": [asdict(one) for one in agreements]})
    logger.info("wrote %s", results / "precision.md")


def _precisions(asked: str | None) -> list[str]:
    """The names of ``--precisions``, or all that this machine can run."""
    if asked is None:
        able = installed("bitsandbytes")
        if not able:
            logger.info("%s are left out: pip install 'llava-condense[quantize]'", " and ".join(QUANTISED))
        return [name for name in PRECISIONS if able or name not in QUANTISED]
    names = asked.split(",")
    for name in names:
        if name not in PRECISIONS:
            raise ValueError(
                f"--precisions: {name!r} is none of {', '.join(PRECISIONS)}{did_you_mean(name, PRECISIONS)}"
            )
    if len(set(names)) < max(2, len(names)):
        raise ValueError(f"--precisions {asked} must be two or more different ones, the one to compare with first")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(parser(), lambda options: run(options, terminal()), arguments, bad=(ValueError, OSError, ImportError))


if __name__ == "__main__":
    sys.exit(main())

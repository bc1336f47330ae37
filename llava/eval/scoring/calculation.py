"""MME's calculation: scores of a folder of its text files, printed as the benchmark's own program prints them.

python -m llava.eval.calculation --results_dir playground/data/eval/MME/eval_tool/answers/llava-v1.5-7b
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.cli.console import launch

from ..tasks.mme import COGNITION, FURTHER, PERCEPTION, calculate


def parser() -> argparse.ArgumentParser:
    """The program's one flag."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.calculation", description="Score a folder of MME's text files."
    )
    flags.add_argument("--results-dir", "--results_dir", type=Path, required=True, help="folder of {subtask}.txt")
    return flags


def run(results_dir: Path) -> dict:
    """Print both halves with their subtasks, those that MME lacks, and what was not there; returns the figures."""
    figures = calculate(results_dir)
    for half, names in (("Perception", PERCEPTION), ("Cognition", COGNITION), ("Further", FURTHER)):
        if half.lower() not in figures:
            continue
        sys.stdout.write(f"=========== {half} ===========\ntotal score: {figures[half.lower()]} \n\n")
        scores = ((name, figures["subtasks"][name]["score"]) for name in names if name in figures["subtasks"])
        sys.stdout.write("".join(f"\t {name}  score: {score}\n" for name, score in scores) + "\n\n")
    if "note" in figures:
        sys.stdout.write(figures["note"] + "\n")
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), lambda given: run(**vars(given)), arguments, stopped=None)

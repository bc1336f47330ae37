"""MME's calculation: scores of a folder of its text files, printed as the benchmark's own program prints them.

python -m llava.eval.calculation --results_dir playground/data/eval/MME/eval_tool/answers/llava-v1.5-7b
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.utils import exit_code

from ..tasks.mme import COGNITION, PERCEPTION, calculate


def parser() -> argparse.ArgumentParser:
    """The program's one flag."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.calculation", description="Score a folder of MME's text files."
    )
    flags.add_argument("--results-dir", "--results_dir", type=Path, required=True, help="folder of {subtask}.txt")
    return flags


def run(arguments: argparse.Namespace) -> dict:
    """Print both halves with their subtasks, and what was not there; returns the figures."""
    found = calculate(arguments.results_dir)
    for half, names in (("Perception", PERCEPTION), ("Cognition", COGNITION)):
        sys.stdout.write(f"=========== {half} ===========\ntotal score: {found[half.lower()]} \n\n")
        scores = ((name, found["subtasks"][name]["score"]) for name in names if name in found["subtasks"])
        sys.stdout.write("".join(f"\t {name}  score: {score}\n" for name, score in scores) + "\n\n")
    if "note" in found:
        sys.stdout.write(found["note"] + "\n")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())

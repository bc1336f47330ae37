"""POPE's figures of an answers file, printed as LLaVA's script prints them.

    python -m llava.eval.eval_pope --annotation-dir playground/data/eval/pope/coco \
        --question-file playground/data/eval/pope/llava_pope_test.jsonl --result-file answers/llava-v1.5-7b.jsonl

Differs from LLaVA's script, which pairs answers and truth by their order: here they are matched by picture and question.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.utils import exit_code

from .scoring.eval_answers import lines_of
from .tasks.pope import Pope


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(prog="python -m llava.eval.eval_pope", description="Score answers on POPE.")
    flags.add_argument(
        "--annotation-dir", "--annotation_dir", type=Path, required=True, help="folder of coco_pope_*.json"
    )
    flags.add_argument("--question-file", "--question_file", type=Path, required=True)
    flags.add_argument("--result-file", "--result_file", type=Path, required=True)
    return flags


def run(arguments: argparse.Namespace) -> dict:
    """Print the figures of every category and their means; returns the metrics."""
    task = Pope(arguments.question_file, truth=arguments.annotation_dir)
    metrics = task.metrics(lines_of(task, arguments.result_file))
    for category, one in metrics["subtasks"].items():
        count = sum(one[name] for name in ("tp", "fp", "tn", "fn"))
        brief = ", ".join(f"{one[name]:.3f}" for name in ("f1", "accuracy", "precision", "recall", "yes_ratio"))
        sys.stdout.write(
            f"Category: {category}, # samples: {count}\n"
            f"TP\tFP\tTN\tFN\t\n{one['tp']}\t{one['fp']}\t{one['tn']}\t{one['fn']}\n"
            f"Accuracy: {one['accuracy']}\nPrecision: {one['precision']}\nRecall: {one['recall']}\n"
            f"F1 score: {one['f1']}\nYes ratio: {one['yes_ratio']}\n{brief}\n"
            "====================================\n"
        )
    low, high = metrics["score_interval"]
    sys.stdout.write(f"Mean F1: {metrics['score']:.2f} [{low:.2f}, {high:.2f}]\n")
    if "note" in metrics:
        sys.stdout.write(metrics["note"] + "\n")
    return metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())

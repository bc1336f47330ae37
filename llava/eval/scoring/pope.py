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

from llava.cli.console import launch
from llava.files import numbered_jsonl

from ..tasks.base import Line
from ..tasks.pope import Pope, parse_answer
from ..tasks.pope import figures as figures_of
from .eval_answers import lines_of


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(prog="python -m llava.eval.eval_pope", description="Score answers on POPE.")
    flags.add_argument(
        "--annotation-dir", "--annotation_dir", type=Path, required=True, help="folder of coco_pope_*.json"
    )
    flags.add_argument("--question-file", "--question_file", type=Path, required=True)
    flags.add_argument("--result-file", "--result_file", type=Path, required=True)
    return flags


def shown(figures: dict) -> str:
    """The figures of a category as LLaVA's script prints them, one per line."""
    brief = ", ".join(f"{figures[name]:.3f}" for name in ("f1", "accuracy", "precision", "recall", "yes_ratio"))
    return (
        f"TP\tFP\tTN\tFN\t\n{figures['tp']}\t{figures['fp']}\t{figures['tn']}\t{figures['fn']}\n"
        f"Accuracy: {figures['accuracy']}\nPrecision: {figures['precision']}\nRecall: {figures['recall']}\n"
        f"F1 score: {figures['f1']}\nYes ratio: {figures['yes_ratio']}\n{brief}\n"
    )


def eval_pope(answers: Sequence[Line], label_file: str | Path) -> dict:
    """Print and return the figures of answers in the order of a ``coco_pope_*.json``; each needs only its `text`.

    Raises ValueError where answers and labels differ in number, which LLaVA's function scores up to the shorter.
    """
    labels = [line["label"].lower() for _, line in numbered_jsonl(Path(label_file), {"label": str})]
    if len(answers) != len(labels):
        raise ValueError(f"{len(answers)} answers, but {label_file} has {len(labels)} labels; give one for each")
    result = figures_of([(label, parse_answer(answer["text"])) for label, answer in zip(labels, answers)])
    sys.stdout.write(shown(result))
    return result


def run(annotation_dir: Path, question_file: Path, result_file: Path) -> dict:
    """Print the figures of every category and their means; returns the metrics."""
    task = Pope(question_file, truth=annotation_dir)
    metrics = task.metrics(lines_of(task, result_file))
    for category, figures in metrics["subtasks"].items():
        count = sum(figures[name] for name in ("tp", "fp", "tn", "fn"))
        sys.stdout.write(f"Category: {category}, # samples: {count}\n")
        sys.stdout.write(shown(figures))
        sys.stdout.write("====================================\n")
    low, high = metrics["score_interval"]
    sys.stdout.write(f"Mean F1: {metrics['score']:.2f} [{low:.2f}, {high:.2f}]\n")
    if "note" in metrics:
        sys.stdout.write(metrics["note"] + "\n")
    return metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), lambda given: run(**vars(given)), arguments, stopped=None)

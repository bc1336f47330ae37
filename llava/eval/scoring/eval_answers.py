"""The score of an answers file on any benchmark that is a task.

    python -m llava.eval.eval_answers --task gqa --data playground/data/eval/gqa --result-file answers/merge.jsonl

It prints the score with its 95 % interval and the subtasks. Every question of the benchmark must have its answer and every
answer its question: anything else is an error that names file and line, never a score of something else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from llava.cli.console import launch, terminal
from llava.cli.tables import print_table
from llava.files import excerpt, numbered_jsonl, write_json

from ..tasks.base import ANSWER, Example, Line, Task, get_task, list_tasks


def lines_of(task: Task, file: Path) -> list[Line]:
    """The answers of a file of LLaVA's scripts as lines of the task, in its order, scored.

    They are matched by question_id and the question alone, since ids may repeat (MME's and TextVQA's are the picture's). Raises
    ValueError naming file and line for an answer to another question or a second one, and for questions without answer.
    """
    examples = {(example.question_id, task.strip_instructions(example.text)): example for example in task.examples}
    answered: dict[str, tuple[int, Line]] = {}
    for number, answer in numbered_jsonl(file, ANSWER):
        place = f"{file}:{number}"
        try:
            question = str(answer["question_id"]), task.strip_instructions(answer["prompt"])
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if question not in examples:
            raise ValueError(f"{place} answers {excerpt(question[1])} of {question[0]}, which {task.file} does not ask")
        key = examples[question].key
        if key in answered:
            raise ValueError(f"{place} answers a second time what line {answered[key][0]} does: {excerpt(question[1])}")
        answered[key] = number, answer
    missing = [example for example in task.examples if example.key not in answered]
    if missing:
        raise ValueError(
            f"{file} lacks {len(missing)} of the {len(task.examples)} answers, the first to {missing[0].question_id}: "
            f"{excerpt(task.strip_instructions(missing[0].text))}; finish the run, or give the question file that was asked"
        )
    return [_line(task, example, answered[example.key][1]) for example in task.examples]


def _line(task: Task, example: Example, answer: Line) -> Line:
    text, error = answer["text"], (answer.get("metadata") or {}).get("error")
    failed = {} if error is None else {"correct": False, "error": error}
    return {
        "key": example.key,
        "question_id": example.question_id,
        "picture": example.picture,
        "category": example.category,
        "prompt": answer["prompt"],
        "text": text,
        **task.score(example, text),
        **failed,
    }


def show(metrics: dict, console: Console) -> None:
    """Print score, interval and subtasks."""
    low, high = metrics["score_interval"]
    console.print(
        f"{metrics['task']}: score {metrics['score']:.2f} of {metrics['max_score']:g} [{low:.2f}, {high:.2f}], "
        f"{metrics['questions']} questions about {metrics['pictures']} pictures",
        highlight=False,
        markup=False,
    )
    if metrics.get("subtasks"):
        table = Table("subtask", "score", box=box.SIMPLE_HEAD)
        for name, figures in metrics["subtasks"].items():
            table.add_row(name, f"{figures['score']:.2f}")
        print_table(table, console)
    for remark in (metrics.get("note"), f"{metrics['failed']} pictures failed" if metrics["failed"] else None):
        if remark:
            console.print(remark, highlight=False, markup=False)


def parser() -> argparse.ArgumentParser:
    """A task, its data, and the answers."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.eval_answers", description="Score an answers file on a benchmark."
    )
    flags.add_argument("--task", required=True, help=f"one of {', '.join(list_tasks())}")
    flags.add_argument("--data", type=Path, required=True, help="folder of the benchmark, or its question file")
    flags.add_argument(
        "--annotation-file",
        "--annotation_file",
        type=Path,
        help="the true answers (default: where the benchmark keeps them)",
    )
    flags.add_argument("--result-file", "--result_file", type=Path, required=True, help="the answers")
    flags.add_argument("--output-file", "--output_file", type=Path, help="also write all metrics to this JSON file")
    return flags


def run(
    task: str, data: Path, result_file: Path, annotation_file: Path | None = None, output_file: Path | None = None
) -> dict:
    """Print the score of an answers file, and write all metrics where a file is named; returns them."""
    questions = get_task(task)(data, truth=annotation_file)
    metrics = questions.metrics(lines_of(questions, result_file))
    show(metrics, terminal())
    if output_file:
        write_json(output_file, metrics)
    return metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), lambda given: run(**vars(given)), arguments, stopped=None)

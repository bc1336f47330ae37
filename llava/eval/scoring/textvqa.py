"""TextVQA's accuracy of answers files, printed as LLaVA's script prints it.

    python -m llava.eval.eval_textvqa --annotation-file playground/data/eval/textvqa/TextVQA_0.5.1_val.json \
        --result-file answers/llava-v1.5-7b.jsonl
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.cli.console import launch
from llava.files import excerpt, numbered_jsonl

from ..tasks.base import ANSWER
from ..tasks.textvqa import question_of, read_truth
from ..tasks.vqa_accuracy import soft_accuracy

logger = logging.getLogger(__name__)


def credits(file: Path, truth: dict[tuple[str, str], list[str]]) -> list[float]:
    """Soft accuracy of every answer, found by its picture and the question in its prompt.

    Raises ValueError naming file and line for an answer to a question that nobody annotated, or a second one.
    """
    scores: dict[tuple[str, str], float] = {}
    for number, answer in numbered_jsonl(file, ANSWER):
        place = f"{file}:{number}"
        try:
            question = str(answer["question_id"]), question_of(answer["prompt"])
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if question not in truth:
            raise ValueError(
                f"{place} answers {excerpt(question[1])} about {question[0]}, which the annotations do not have"
            )
        if question in scores:
            raise ValueError(f"{place} answers a second time {excerpt(question[1])} about {question[0]}")
        scores[question] = soft_accuracy(answer["text"], truth[question])
    if not scores:
        raise ValueError(f"{file} holds no answer")
    if len(scores) < len(truth):
        logger.warning("%s answers %d of the %d annotated questions; scored over these", file, len(scores), len(truth))
    return list(scores.values())


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(prog="python -m llava.eval.eval_textvqa", description="Score answers on TextVQA.")
    flags.add_argument("--annotation-file", "--annotation_file", type=Path, required=True)
    flags.add_argument("--result-file", "--result_file", type=Path, help="one answers file")
    flags.add_argument("--result-dir", "--result_dir", type=Path, help="every .jsonl file of a folder")
    return flags


def get_args() -> argparse.Namespace:
    """The settings of this process' command line."""
    return parser().parse_args()


def prompt_processor(prompt: str) -> str:
    """The question in a prompt, in lower case; see ``question_of``."""
    return question_of(prompt)


def eval_single(annotation_file: str | Path, result_file: str | Path) -> None:
    """Print the accuracy of one answers file."""
    run(Path(annotation_file), Path(result_file))


def run(annotation_file: Path, result_file: Path | None = None, result_dir: Path | None = None) -> None:
    """Print name, number of samples and accuracy of each answers file."""
    files = [result_file] if result_file else []
    files += sorted(result_dir.glob("*.jsonl")) if result_dir else []
    if not files:
        raise ValueError("there is no answers file; give --result-file, or --result-dir with .jsonl files in it")
    truth = read_truth(annotation_file)
    for file in files:
        scores = credits(file, truth)
        accuracy = 100 * sum(scores) / len(scores)
        sys.stdout.write(f"{file.stem}\nSamples: {len(scores)}\nAccuracy: {accuracy:.2f}%\n\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), lambda given: run(**vars(given)), arguments, stopped=None)

"""ScienceQA's accuracy of an answers file, printed and written as LLaVA's script does, and the strict accuracy.

    python -m llava.eval.eval_science_qa --base-dir playground/data/eval/scienceqa --result-file answers/X.jsonl \
        --output-file answers/X_output.jsonl --output-result answers/X_result.json

Strict counts only an answer that is the letter and nothing else. As in LLaVA's script, a question of the split without
an answer is wrong, and does not count among those with a picture.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.cli.console import launch
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.files import excerpt, numbered_jsonl, read_json, require_fields, write_json

from ..tasks.base import ANSWER, Line
from ..tasks.scienceqa import FAILED, OPTIONS, is_strictly, parse_answer

logger = logging.getLogger(__name__)
UNANSWERED = {"text": FAILED, "prompt": "Unknown"}


def read_split(folder: Path, split: str, options: Sequence[str]) -> dict[str, Line]:
    """The problems of a split by id. Raises ValueError for a split that is not there or a problem without a true choice."""
    splits, problems = read_json(folder / "pid_splits.json"), read_json(folder / "problems.json")
    if split not in splits:
        raise ValueError(
            f"--split {split} is not in {folder / 'pid_splits.json'}, which has {', '.join(map(excerpt, splits))}"
        )
    names = splits[split]
    if not names:
        raise ValueError(f"--split {split} is empty in {folder / 'pid_splits.json'}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"--split {split} in {folder / 'pid_splits.json'} must be a list of ids")
    for name in names:
        problem = problems.get(name)
        place = f"{folder / 'problems.json'}, problem {excerpt(name)}"
        require_fields(place, problem, {"choices": list, "answer": int})
        if not 0 <= problem["answer"] < len(problem["choices"]):
            raise ValueError(
                f"{place}: answer={problem['answer']} is no index of its {len(problem['choices'])} choices"
            )
        if len(problem["choices"]) > len(options):
            raise ValueError(
                f"--options {' '.join(options)} are too few for the {len(problem['choices'])} choices of {name}"
            )
    return {name: problems[name] for name in names}


def read_answers(file: Path, problems: dict[str, Line]) -> dict[str, Line]:
    """Answers by question_id. Raises ValueError naming file and line for one of another split, or a second answer."""
    answers: dict[str, Line] = {}
    for number, answer in numbered_jsonl(file, ANSWER):
        name = str(answer["question_id"])
        if name not in problems:
            raise ValueError(f"{file}:{number} answers question {excerpt(name)}, which is not in the split")
        if name in answers:
            raise ValueError(f"{file}:{number} answers question {name} a second time")
        answers[name] = answer
    return answers


def judge(name: str, problem: Line, answer: Line, options: Sequence[str]) -> Line:
    """One question as ``--output-file`` lists it, with ``right``, ``strict`` and the index of what was chosen (-1: none)."""
    true_index: int = problem["answer"]
    parsed = parse_answer(answer["text"], options)
    index = get_pred_idx(parsed, problem["choices"], options)
    return {
        "question_id": name,
        "parsed_ans": parsed,
        "ground_truth": options[true_index],
        "question": answer["prompt"],
        "pred": answer["text"],
        "is_multimodal": DEFAULT_IMAGE_TOKEN in answer["prompt"],
        "index": index,
        "right": index == true_index,
        "strict": is_strictly(answer["text"], options[true_index]),
    }


def summary(judged: Sequence[Line], by: str) -> str:
    """The line LLaVA prints, counting ``right`` or ``strict``; without a picture there is no IMG-Accuracy."""
    multimodal = [question[by] for question in judged if question["is_multimodal"]]
    correct = sum(question[by] for question in judged)
    of_images = f"{100 * sum(multimodal) / len(multimodal):.2f}%" if multimodal else "none has a picture"
    accuracy = 100 * correct / len(judged)
    return f"Total: {len(judged)}, Correct: {correct}, Accuracy: {accuracy:.2f}%, IMG-Accuracy: {of_images}"


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.eval_science_qa", description="Score answers on ScienceQA."
    )
    flags.add_argument(
        "--base-dir", "--base_dir", type=Path, required=True, help="folder of pid_splits.json and problems.json"
    )
    flags.add_argument("--result-file", "--result_file", type=Path, required=True)
    flags.add_argument("--output-file", "--output_file", type=Path, help="what was right and what was wrong, as JSON")
    flags.add_argument("--output-result", "--output_result", type=Path, help="accuracy and choices by id, as JSON")
    flags.add_argument("--split", default="test")
    flags.add_argument("--options", nargs="+", default=list(OPTIONS), help="letters (default: A B C D E)")
    return flags


def get_args() -> argparse.Namespace:
    """The settings of this process' command line."""
    return parser().parse_args()


def get_pred_idx(prediction: str, choices: Sequence[str], options: Sequence[str]) -> int:
    """The index of a letter among those of the choices; -1 for another one."""
    letters = list(options[: len(choices)])
    return letters.index(prediction) if prediction in letters else -1


def run(
    base_dir: Path,
    result_file: Path,
    output_file: Path | None = None,
    output_result: Path | None = None,
    split: str = "test",
    options: Sequence[str] = OPTIONS,
) -> list[Line]:
    """Print both accuracies and write the files that are named; returns every question judged."""
    problems = read_split(base_dir, split, options)
    answers = read_answers(result_file, problems)
    if len(answers) < len(problems):
        missing = len(problems) - len(answers)
        logger.warning("%d of the %d questions of the split have no answer and count as wrong", missing, len(problems))
    judged = [judge(name, problem, answers.get(name, UNANSWERED), options) for name, problem in problems.items()]
    sys.stdout.write(f"{summary(judged, 'right')}\nStrict: {summary(judged, 'strict')}\n")
    if output_file:
        write_json(output_file, sorted_out(judged))
    if output_result:
        write_json(output_result, results(judged))
    return judged


def sorted_out(judged: Sequence[Line]) -> dict[str, list[Line]]:
    """What was right and what was wrong, with LLaVA's six fields."""
    fields = ("question_id", "parsed_ans", "ground_truth", "question", "pred", "is_multimodal")
    return {
        name: [{field: question[field] for field in fields} for question in judged if question["right"] == right]
        for name, right in (("correct", True), ("incorrect", False))
    }


def results(judged: Sequence[Line]) -> dict:
    """Accuracy in per cent, the strict one, counts, and by id what was chosen and said."""
    correct = sum(question["right"] for question in judged)
    return {
        "acc": 100 * correct / len(judged),
        "strict_acc": 100 * sum(question["strict"] for question in judged) / len(judged),
        "correct": correct,
        "count": len(judged),
        "results": {question["question_id"]: question["index"] for question in judged},
        "outputs": {question["question_id"]: question["pred"] for question in judged},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), lambda given: run(**vars(given)), arguments, stopped=None)

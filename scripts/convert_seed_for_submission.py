"""Answers on SEED-Bench: their accuracy by kind of question, and the file that its leaderboard takes.

python scripts/convert_seed_for_submission.py --annotation-file playground/data/eval/seed_bench/SEED-Bench.json \
    --result-file playground/data/eval/seed_bench/answers/llava-v1.5-7b/merge.jsonl \
    --result-upload-file playground/data/eval/seed_bench/answers_upload/llava-v1.5-7b.jsonl
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.eval.scoring.tsv import number_or_text
from llava.files import numbered_records, read_json, read_jsonl, require_fields, write_jsonl
from llava.utils import exit_code

logger = logging.getLogger(__name__)

QUESTION = {"question_id": str | int, "question_type_id": int, "data_type": str, "answer": str}
Right = list[tuple[dict[str, Any], bool]]  # every question with whether its answer is the right letter


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(description="Score answers on SEED-Bench and convert them for its leaderboard.")
    flags.add_argument("--annotation-file", type=Path, required=True, help="SEED-Bench.json")
    flags.add_argument("--result-file", type=Path, required=True, help="answers file")
    flags.add_argument("--result-upload-file", type=Path, required=True, help="JSON lines to write")
    return flags


def percent(name: str, right: Right) -> str:
    """A line with the accuracy of some questions."""
    return f"{name}: {100 * sum(is_right for _, is_right in right) / len(right):.2f}%\n"


def scores(right: Right, kinds: dict[int, str]) -> str:
    """The accuracy of all questions, of those about pictures and about videos, and of each kind, a line each."""
    lines = [percent("Total accuracy", right)]
    groups = {medium: [pair for pair in right if pair[0]["data_type"] == medium] for medium in ("image", "video")}
    groups |= {name: [pair for pair in right if pair[0]["question_type_id"] == kind] for kind, name in kinds.items()}
    return "".join(lines + [percent(name, group) for name, group in groups.items() if group])


def run(arguments: argparse.Namespace) -> None:
    """Print the scores, a question without an answer counting as wrong, and write {question_id, prediction} of the others."""
    file = arguments.annotation_file
    questions = [question for _, question in numbered_records(file, QUESTION, inside="questions")]
    if not questions:
        raise ValueError(f"--annotation-file {file} holds no question")
    annotations = read_json(file)
    require_fields(str(file), annotations, {"question_type": dict})
    lines = read_jsonl(arguments.result_file, {"question_id": str | int, "text": str})
    texts = {str(line["question_id"]): line["text"] for line in lines}
    right = [(question, texts.get(str(question["question_id"])) == question["answer"]) for question in questions]
    sys.stdout.write(scores(right, {kind: name for name, kind in annotations["question_type"].items()}))
    answered = [name for question in questions if (name := str(question["question_id"])) in texts]
    if len(answered) < len(questions):
        logger.warning("%d of %d questions have no answer", len(questions) - len(answered), len(questions))
    arguments.result_upload_file.parent.mkdir(parents=True, exist_ok=True)
    predictions = [{"question_id": number_or_text(name), "prediction": texts[name]} for name in answered]
    write_jsonl(arguments.result_upload_file, predictions)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())

"""Answers on VizWiz as the file that its evaluation server takes: one for every question of the split.

python scripts/convert_vizwiz_for_submission.py --annotation-file playground/data/eval/vizwiz/llava_test.jsonl \
    --result-file playground/data/eval/vizwiz/answers/llava-v1.5-7b.jsonl \
    --result-upload-file playground/data/eval/vizwiz/answers_upload/llava-v1.5-7b.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.eval.m4c_evaluator import EvalAIAnswerProcessor
from llava.files import read_jsonl, write_json
from llava.utils import exit_code


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(description="Convert answers on VizWiz for its evaluation server.")
    flags.add_argument("--annotation-file", type=Path, required=True, help="question file of the whole split")
    flags.add_argument("--result-file", type=Path, required=True, help="answers file")
    flags.add_argument("--result-upload-file", type=Path, required=True, help="JSON to write")
    return flags


def run(arguments: argparse.Namespace) -> None:
    """Write {image, answer} for every question, the answer normalised. Raises ValueError where one was not answered."""
    file = arguments.result_file
    texts = {line["question_id"]: line["text"] for line in read_jsonl(file, {"question_id": str | int, "text": str})}
    normalise, answers = EvalAIAnswerProcessor(), []
    for line in read_jsonl(arguments.annotation_file, {"question_id": str | int, "image": str}):
        if line["question_id"] not in texts:
            raise ValueError(
                f"{file} has no answer to question {line['question_id']} of {arguments.annotation_file}, and the server "
                "wants them all; answer the whole file"
            )
        answers.append({"image": line["image"], "answer": normalise(texts[line["question_id"]])})
    arguments.result_upload_file.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.result_upload_file, answers)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())

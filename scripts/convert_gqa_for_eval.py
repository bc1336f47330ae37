"""An answers file on GQA as the file of predictions that GQA's own program takes.

python scripts/convert_gqa_for_eval.py --src answers/merge.jsonl --dst playground/data/eval/gqa/data/testdev_balanced_predictions.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.files import read_jsonl, write_json
from llava.utils import exit_code


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(description="Convert answers on GQA for its own evaluation.")
    flags.add_argument("--src", type=Path, required=True, help="answers file")
    flags.add_argument("--dst", type=Path, required=True, help="JSON to write")
    return flags


def run(arguments: argparse.Namespace) -> None:
    """Write a {questionId, prediction} for every answer: lower case, without its last period."""
    answers = read_jsonl(arguments.src, {"question_id": str | int, "text": str})
    predictions = [
        {"questionId": answer["question_id"], "prediction": answer["text"].rstrip(".").lower()} for answer in answers
    ]
    write_json(arguments.dst, predictions)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())

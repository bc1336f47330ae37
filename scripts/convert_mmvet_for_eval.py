"""Answers on MM-Vet as the file that its evaluator takes.

python scripts/convert_mmvet_for_eval.py --src playground/data/eval/mm-vet/answers/llava-v1.5-7b.jsonl \
    --dst playground/data/eval/mm-vet/results/llava-v1.5-7b.json
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
    flags = argparse.ArgumentParser(description="Convert answers on MM-Vet for its evaluator.")
    flags.add_argument("--src", type=Path, required=True, help="answers file")
    flags.add_argument("--dst", type=Path, required=True, help="JSON to write")
    return flags


def run(arguments: argparse.Namespace) -> None:
    """Write the texts under "v1_" and the number of their question."""
    answers = read_jsonl(arguments.src, {"question_id": str | int, "text": str})
    arguments.dst.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.dst, {f"v1_{answer['question_id']}": answer["text"] for answer in answers})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())

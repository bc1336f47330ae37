"""Answers on VQAv2 as the file that its evaluation server takes: one for every question of the test split.

python scripts/convert_vqav2_for_submission.py --split llava_vqav2_mscoco_test-dev2015 --ckpt llava-v1.5-7b

reads ``answers/SPLIT/CKPT/merge.jsonl`` of the benchmark's folder and writes ``answers_upload/SPLIT/CKPT.json``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.eval.tasks.vqa_accuracy import normalise
from llava.files import read_jsonl, write_json
from llava.utils import exit_code

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(description="Convert answers on VQAv2 for its evaluation server.")
    flags.add_argument("--dir", type=Path, default=Path("playground/data/eval/vqav2"), help="default: %(default)s")
    flags.add_argument("--ckpt", required=True, help="name of the answers")
    flags.add_argument("--split", required=True, help="llava_vqav2_mscoco_test-dev2015 or another question file's name")
    return flags


def run(arguments: argparse.Namespace) -> None:
    """Write normalised answers, "" where a question of the whole test split was not asked."""
    folder, split = arguments.dir, arguments.split
    file, number = folder / "answers" / split / arguments.ckpt / "merge.jsonl", {"question_id": str | int}
    texts = {answer["question_id"]: normalise(answer["text"]) for answer in read_jsonl(file, {**number, "text": str})}
    whole = folder / "llava_vqav2_mscoco_test2015.jsonl"
    asked = read_jsonl(whole if "test" in split else folder / f"{split}.jsonl", number)
    answers = [{"question_id": line["question_id"], "answer": texts.get(line["question_id"], "")} for line in asked]
    upload = folder / "answers_upload" / split / f"{arguments.ckpt}.json"
    upload.parent.mkdir(parents=True, exist_ok=True)
    write_json(upload, answers)
    logger.info("%d answers to %d questions in %s", len(texts), len(asked), upload)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())

"""Answers on MMBench as the table that its evaluation server takes: the questions with a column of predictions.

python scripts/convert_mmbench_for_submission.py --annotation-file playground/data/eval/mmbench/mmbench_dev_20230712.tsv \
    --result-dir playground/data/eval/mmbench/answers/mmbench_dev_20230712 \
    --upload-dir playground/data/eval/mmbench/answers_upload/mmbench_dev_20230712 --experiment llava-v1.5-7b

reads ``EXPERIMENT.jsonl`` of the results and writes ``EXPERIMENT.xlsx``. It needs openpyxl: pip install 'llava-condense[eval]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava.eval.scoring.tsv import number_or_text, numbered_rows
from llava.files import numbered_jsonl
from llava.utils import exit_code

logger = logging.getLogger(__name__)

LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")
PLACE = 6  # of the predictions: behind index, question and four options


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(description="Convert answers on MMBench for its evaluation server.")
    flags.add_argument("--annotation-file", type=Path, required=True, help="MMBench's table")
    flags.add_argument("--result-dir", type=Path, required=True, help="folder of the answers file")
    flags.add_argument("--upload-dir", type=Path, required=True, help="folder to write into")
    flags.add_argument("--experiment", required=True, help="name of the answers file, without .jsonl")
    return flags


def table(annotations: Path, answers: Path) -> Iterator[list[int | str | None]]:
    """The header, then a row for every question; the prediction of one that was not answered is empty.

    Of the rounds of a question (``--all-rounds``) the first counts, whose letters are those of the table. Raises ValueError
    naming the place of an answer to no question of the table.
    """
    rows = [row for _, row in numbered_rows(annotations, ("index", "question"))]
    if not rows:
        raise ValueError(f"--annotation-file {annotations} holds no question")
    indices = {row["index"] for row in rows}
    texts: dict[str, str] = {}
    for number, answer in numbered_jsonl(answers, {"question_id": str | int, "text": str}):
        index = str(answer["question_id"])
        if index not in indices:
            raise ValueError(f"{answers}:{number} answers question {index}, which {annotations} has not")
        if not answer.get("round_id"):
            texts[index] = answer["text"]
    columns = [name for name in rows[0] if name not in LEFT_OUT]
    columns.insert(PLACE, "prediction")
    yield [*columns]
    for row in rows:
        cells = {**row, "prediction": texts.get(row["index"], "")}
        yield [number_or_text(cells[name]) if name == "index" else cells[name] or None for name in columns]
    logger.info("%d answers to %d questions", len(texts), len(rows))


def run(arguments: argparse.Namespace) -> None:
    """Write the table; what spreadsheets take for a formula stays text, and characters that they cannot hold are left out."""
    if importlib.util.find_spec("openpyxl") is None:
        raise ValueError("writing .xlsx needs openpyxl: pip install 'llava-condense[eval]'")
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    for row in table(arguments.annotation_file, arguments.result_dir / f"{arguments.experiment}.jsonl"):
        cells = [
            WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", value) if isinstance(value, str) else value)
            for value in row
        ]
        for cell in cells:
            if isinstance(cell.value, str):
                cell.data_type = "s"
        sheet.append(cells)
    arguments.upload_dir.mkdir(parents=True, exist_ok=True)
    upload = arguments.upload_dir / f"{arguments.experiment}.xlsx"
    book.save(upload)
    logger.info("they are in %s", upload)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())

"""An answers file on MME as the fourteen text files that the benchmark's calculation reads.

    python -m llava.eval.convert_answer_to_mme --experiment llava-v1.5-7b --data playground/data/eval/MME

reads ``answers/llava-v1.5-7b.jsonl`` of that folder and writes ``eval_tool/answers/llava-v1.5-7b/{subtask}.txt``, one
line per question: file of the truth, question, truth, answer, separated by tabs. ``python -m llava.eval.calculation``
scores them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from llava.cli.console import launch
from llava.files import write_text

from ..tasks.base import Line, by_picture
from ..tasks.mme import INSTRUCTIONS, KNOWN, Mme
from .eval_answers import lines_of

logger = logging.getLogger(__name__)


def rows(task: Mme, lines: Sequence[Line]) -> dict[str, list[str]]:
    """The text lines of every subtask, the two of a picture one after the other.

    Line breaks and tabs in an answer become spaces: they would be read as further lines and fields.
    """
    texts: dict[str, list[str]] = {}
    for picture, pair in by_picture(lines).items():
        file = f"{PurePosixPath(picture).stem}.txt"
        for line in pair:
            question = f"{task.strip_instructions(line['prompt'])} {INSTRUCTIONS[1]}"
            answer = " ".join(line["text"].split())
            texts.setdefault(line["category"], []).append("\t".join((file, question, line["label"], answer)))
    return texts


def parser() -> argparse.ArgumentParser:
    """LLaVA's flag, and the folder that its script had to be run in."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.convert_answer_to_mme", description="Make MME's text files from an answers file."
    )
    flags.add_argument("--experiment", required=True, help="answers/EXPERIMENT.jsonl in the folder of the benchmark")
    flags.add_argument("--data", type=Path, default=Path("playground/data/eval/MME"), help="default: %(default)s")
    return flags


def run(experiment: str, data: Path) -> Path:
    """Convert the answers of an experiment; returns the folder of the text files.

    Raises ValueError for an experiment whose name leads out of the folder of answers.
    """
    if ".." in Path(experiment).parts or Path(experiment).is_absolute():
        raise ValueError(f"--experiment {experiment} leads out of {data / 'answers'}; give the name of a file in it")
    task = Mme(data)
    lines = lines_of(task, data / "answers" / f"{experiment}.jsonl")
    folder = data / "eval_tool" / "answers" / experiment
    folder.mkdir(parents=True, exist_ok=True)
    for name in KNOWN:  # files that are already there may be of more subtasks, which would be scored too
        (folder / f"{name}.txt").unlink(missing_ok=True)
    for category, texts in rows(task, lines).items():
        write_text(folder / f"{category}.txt", "".join(f"{text}\n" for text in texts))
    logger.info("%d answers in %s", len(lines), folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), lambda given: run(**vars(given)), arguments, stopped=None)

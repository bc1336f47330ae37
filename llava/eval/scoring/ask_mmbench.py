"""Answers to MMBench's questions, whose pictures lie in the table itself, with LLaVA's flags and every reduction flag.

    python -m llava.eval.model_vqa_mmbench --model-path liuhaotian/llava-v1.5-7b --conv-mode vicuna_v1 --temperature 0 \
        --question-file playground/data/eval/mmbench/mmbench_dev_20230712.tsv --single-pred-prompt \
        --answers-file playground/data/eval/mmbench/answers/mmbench_dev_20230712/llava-v1.5-7b.jsonl

The table has the columns index, question, hint, A to D and image; see ``questions``.
"""

from __future__ import annotations

import argparse
import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llava.cli.console import launch
from llava.cli.flags import completed
from llava.constants import LETTER_ANSWER
from llava.files import excerpt

from ..tasks.base import Line
from .answers_file import Questions, answer_settings, chunk, questions_from, write_answers
from .answers_file import parser as shared_parser
from .tsv import empty, number_or_text, numbered_rows

CONV_MODE = "llava_v1"  # LLaVA's default, for checkpoints that name no template of their own
OPTIONS = "ABCD"
INSTRUCTIONS = {"en": LETTER_ANSWER, "cn": "请直接回答选项字母。"}
REFERENCE = 64  # characters; a shorter image is the index of the row that has the picture
SHOWN = ("round_id", "options", "option_char")


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags with its defaults, where those can work."""
    about = "Answer the questions of MMBench. Their pictures are in the question file: --image-folder is not read."
    flags = shared_parser(about, max_new_tokens=1024)
    group = flags.add_argument_group("MMBench")
    group.add_argument(
        "--all-rounds",
        "--all_rounds",
        action="store_true",
        help="ask once for every option, with the options rotated each time",
    )
    group.add_argument(
        "--single-pred-prompt", "--single_pred_prompt", action="store_true", help="ask for the option's letter alone"
    )
    group.add_argument(
        "--lang", choices=list(INSTRUCTIONS), default="en", help="language of that request (default: en)"
    )
    return flags


def questions(file: Path, all_rounds: bool = False, instruction: str = "") -> Iterator[tuple[str, Line]]:
    """Place and question of every round of every row; ``image`` is the base64 text of its picture.

    A prompt is hint, question and options, one per line; the model is asked for ``instruction`` too. Options end at the
    first empty cell. In round r (from 0), of which there are as many as options if ``all_rounds``, letter i stands
    before option i + r. A picture that several rows share may be given once, the others naming that row's index. Raises
    ValueError naming the place of a row without an option, of a repeated index, and what ``numbered_rows`` raises.
    """
    rows = list(numbered_rows(file, ("index", "question", "A", "image")))
    pictures = {row["index"]: row["image"] for _, row in rows}
    known: set[str] = set()
    for place, row in rows:
        if row["index"] in known:
            raise ValueError(f"{place} has index {row['index']} a second time; give every question its own")
        known.add(row["index"])
        image = row["image"] if len(row["image"]) > REFERENCE else pictures.get(row["image"], row["image"])
        for number, options in enumerate(rounds(row, all_rounds)):
            lines = [row.get("hint", ""), row["question"]]
            lines += [f"{letter}. {option}" for letter, option in zip(OPTIONS, options)]
            prompt = "\n".join(line for line in lines if line)
            yield (
                place,
                {
                    "question_id": number_or_text(row["index"]),
                    "round_id": number,
                    "prompt": prompt,
                    "text": f"{prompt}\n{instruction}" if instruction else prompt,
                    "options": options,
                    "option_char": rotated(OPTIONS[: len(options)], number),
                    "image": image,
                    "category": row.get("category", ""),
                },
            )


def rounds(row: Mapping[str, object], all_rounds: bool) -> list[list[Any]]:
    """The options of a row in the order of each round."""
    options = get_options(row, OPTIONS)
    return [rotated(options, number) for number in range(len(options) if all_rounds else 1)]


def get_options(row: Mapping[str, Any], options: Iterable[str]) -> list[Any]:
    """What a row holds under the letters ``options``, up to the first that it lacks."""
    return list(takewhile(lambda value: not is_none(value), (row.get(letter) for letter in options)))


def is_none(value: object) -> bool:
    """Whether a cell is empty: None, NaN, or a text that pandas or LLaVA takes for such."""
    return value is None or value != value or (isinstance(value, str) and empty(value))


def rotated(items: Sequence[str], by: int) -> list[str]:
    """The items, with the first ``by`` of them moved to the end."""
    return [*items[by:], *items[:by]]


def questions_of_share(
    file: Path, numbered: Sequence[tuple[str, Line]], share: tuple[int, int], folder: Path, max_new_tokens: int
) -> Questions:
    """Chunk (i, n) of the questions, their pictures laid into ``folder``; the rounds of a row stay together.

    Raises ValueError naming the place of a picture that is not base64. The picture's bytes are not inspected.
    """
    index, count = share
    mine = set(chunk(list(dict.fromkeys(place for place, _ in numbered)), count, index))
    files: dict[str, str] = {}
    laid = []
    for place, line in numbered:
        text = line["image"]
        if place in mine and text not in files:
            files[text] = f"picture {len(files) + 1}"
            try:
                (folder / files[text]).write_bytes(base64.b64decode("".join(text.split()), validate=True))
            except binascii.Error:
                raise ValueError(
                    f"{place}: image={excerpt(text)} is neither a picture in base64 nor the index of a row that has one"
                ) from None
        laid.append((place, {**line, "image": files.get(text)}))
    asked = questions_from("model_vqa_mmbench", file, laid, folder, max_new_tokens, shown=SHOWN)
    kept = [example for example, (place, _) in zip(asked.examples, numbered, strict=True) if place in mine]
    return replace(asked, examples=kept)


def run(options: argparse.Namespace) -> None:
    """Answer the questions of a command line."""
    instruction = INSTRUCTIONS[options.lang] if options.single_pred_prompt else ""
    numbered = list(questions(options.question_file, options.all_rounds, instruction))
    with TemporaryDirectory(prefix="llava-mmbench-") as folder:
        share = (options.chunk_idx, options.num_chunks)
        asked = questions_of_share(options.question_file, numbered, share, Path(folder), options.max_new_tokens)
        write_answers(
            answer_settings(options, CONV_MODE),
            asked,
            instruction=instruction,
        )


def eval_model(args: object) -> None:
    """Answers the questions that `args` names, any object with LLaVA's attributes; the others take their defaults."""
    run(completed(args, parser()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(parser(), run, arguments)

"""Answers to ScienceQA's questions, with and without pictures, with LLaVA's flags and every reduction flag.

    python -m llava.eval.model_vqa_science --model-path liuhaotian/llava-v1.5-7b --conv-mode vicuna_v1 --temperature 0 \
        --question-file playground/data/eval/scienceqa/llava_test_CQM-A.json --single-pred-prompt \
        --image-folder playground/data/eval/scienceqa/images/test --answers-file answers/llava-v1.5-7b.jsonl

The question file is a JSON list of {id, conversations, image}, as LLaVA and HiMAP write it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN, LETTER_ANSWER
from llava.files import numbered_records
from llava.reduction import Stage

from .ask.subject import Generation, LlavaSubject, Reply
from .scoring.answers_file import ask, launch, questions_from
from .scoring.answers_file import parser as shared_parser
from .tasks.base import Line
from .tasks.scienceqa import RECORD, turns

LEAD_IN = " ###\nANSWER:"
SAID = "\0"  # parts, in a text for ``Continued``, the question from what has been answered so far


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags with its defaults, where those can work, and HiMAP's ``--num-samples``."""
    flags = shared_parser("Answer the questions of ScienceQA.", conv_mode="llava_v0", max_new_tokens=1024)
    group = flags.add_argument_group("ScienceQA")
    group.add_argument(
        "--single-pred-prompt", "--single_pred_prompt", action="store_true", help="ask for the option's letter alone"
    )
    group.add_argument(
        "--answer-prompter",
        "--answer_prompter",
        action="store_true",
        help="let the model reason first, then ask for its answer to that",
    )
    group.add_argument("--num-samples", "--num_samples", type=int, default=-1, help="only the first so many (-1: all)")
    return flags


def questions(arguments: argparse.Namespace) -> Iterator[tuple[str, Line]]:
    """Place and question of each record asked for; the prompt recorded has the placeholder of its picture."""
    count = arguments.num_samples
    if count < 1 and count != -1:
        raise ValueError(f"--num-samples {count} must be at least 1, or -1 for all")
    records = numbered_records(arguments.question_file, RECORD)
    for where, record in islice(records, None if count == -1 else count):
        image, text = record.get("image"), turns(where, record)["text"]
        if arguments.single_pred_prompt:
            text += f"\n{LETTER_ANSWER}"
        prompt = f"{DEFAULT_IMAGE_TOKEN}\n{text}" if image else text
        yield where, {"question_id": record["id"], "text": text, "image": image, "prompt": prompt}


class Reasoning:
    """A subject asked twice: what it says to the question, then what it answers after having said that.

    The reply is "reasoning, new line, The answer is ANSWER", and costs what the first costs. LLaVA's own flag has had no
    effect since its version 1.2; this is what it did before.
    """

    def __init__(self, *model: Any):
        self.subject = Continued(*model)

    def encode(self, images: Sequence[Image.Image], plan: Sequence[Stage] = ()) -> list[Any]:
        """As the subject asked."""
        return self.subject.encode(images, plan)

    def length(self, text: str, image: Path | None) -> int:
        """As the subject asked."""
        return self.subject.length(text, image)

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """The replies of both rounds in one; the second is at most 64 tokens long."""
        reasons = self.subject.answer(texts, features, plan, generation)
        again = [f"{text}{SAID}{reason.text}{LEAD_IN}" for text, reason in zip(texts, reasons, strict=True)]
        found = self.subject.answer(again, features, plan, replace(generation, max_new_tokens=64))
        return [
            replace(reason, text=f"{reason.text}\n The answer is {reply.text}")
            for reason, reply in zip(reasons, found, strict=True)
        ]


class Continued(LlavaSubject):
    """A LLaVA that goes on from what it has said already, which follows ``SAID`` in a text."""

    def prompt_ids(self, text: str, has_picture: bool) -> list[int]:
        """The ids of the question in its template, and of what has been said."""
        question, _, said = text.partition(SAID)
        ids = super().prompt_ids(question, has_picture)
        return ids + [one for one in self.tokenizer(said).input_ids if one != self.tokenizer.bos_token_id]


def run(arguments: argparse.Namespace) -> None:
    """Answer the questions."""
    asked = questions_from("model_vqa_science", arguments, questions(arguments))
    subject_of = Reasoning if arguments.answer_prompter else LlavaSubject
    ask(
        arguments,
        asked,
        subject_of,
        single_pred_prompt=arguments.single_pred_prompt,
        answer_prompter=arguments.answer_prompter,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(run, parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())

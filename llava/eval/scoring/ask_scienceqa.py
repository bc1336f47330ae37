"""Answers to ScienceQA's questions, with and without pictures, with LLaVA's flags and every reduction flag.

    python -m llava.eval.model_vqa_science --model-path liuhaotian/llava-v1.5-7b --conv-mode vicuna_v1 --temperature 0 \
        --question-file playground/data/eval/scienceqa/llava_test_CQM-A.json --single-pred-prompt \
        --image-folder playground/data/eval/scienceqa/images/test --answers-file answers/llava-v1.5-7b.jsonl

The question file is a JSON list of {id, conversations, image}, as LLaVA and HiMAP write it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from llava.cli.console import launch
from llava.cli.flags import completed
from llava.constants import DEFAULT_IMAGE_TOKEN, LETTER_ANSWER
from llava.files import numbered_records
from llava.reduction import Stage

from ..ask.subject import Generation, LlavaSubject, Reply, SubjectWrapper
from ..tasks.base import Line
from ..tasks.scienceqa import RECORD, turns
from .answers_file import answer_settings, questions_from, write_answers
from .answers_file import parser as shared_parser

LEAD_IN = " ###\nANSWER:"
CONTINUED = "\0"  # separates, in a text for ``Continued``, the question from the answer so far
CONV_MODE = "llava_v0"  # LLaVA's default, for checkpoints that name no template of their own


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags with its defaults, where those can work, and HiMAP's ``--num-samples``."""
    flags = shared_parser("Answer the questions of ScienceQA.", max_new_tokens=1024)
    group = flags.add_argument_group("ScienceQA")
    group.add_argument(
        "--single-pred-prompt", "--single_pred_prompt", action="store_true", help="ask for the option's letter alone"
    )
    group.add_argument(
        "--answer-prompter",
        "--answer_prompter",
        action="store_true",
        help="let the model reason first, then ask for the answer that follows",
    )
    group.add_argument(
        "--num-samples", "--num_samples", type=int, default=-1, help="ask only the first N questions (-1: all)"
    )
    return flags


def questions(file: Path, count: int = -1, letter_alone: bool = False) -> Iterator[tuple[str, Line]]:
    """Place and question of the first ``count`` records (-1: all); the prompt recorded has the placeholder of its picture.

    letter_alone: ask for the option's letter. Raises ValueError naming file and record, and for another ``count``.
    """
    if count < 1 and count != -1:
        raise ValueError(f"--num-samples {count} must be at least 1, or -1 for all")
    records = numbered_records(file, RECORD)
    for place, record in islice(records, None if count == -1 else count):
        image, text = record.get("image"), turns(place, record)["text"]
        if letter_alone:
            text += f"\n{LETTER_ANSWER}"
        prompt = f"{DEFAULT_IMAGE_TOKEN}\n{text}" if image else text
        yield place, {"question_id": record["id"], "text": text, "image": image, "prompt": prompt}


class Reasoning(SubjectWrapper):
    """Asks twice: what the model says to the question, then what it answers after having said that.

    The reply is "reasoning, new line, The answer is ANSWER", and costs what the first costs. LLaVA's own flag has had no
    effect since its version 1.2; this is what it did before.
    """

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """The replies of both rounds in one; the second is at most 64 tokens long."""
        reasons = self.subject.answer(texts, features, plan, generation)
        again = [f"{text}{CONTINUED}{reason.text}{LEAD_IN}" for text, reason in zip(texts, reasons, strict=True)]
        conclusions = self.subject.answer(again, features, plan, replace(generation, max_new_tokens=64))
        return [
            replace(reason, text=f"{reason.text}\n The answer is {conclusion.text}")
            for reason, conclusion in zip(reasons, conclusions, strict=True)
        ]


class Continued(LlavaSubject):
    """A LLaVA that continues its own answer, which follows ``CONTINUED`` in a text."""

    def prompt_ids(self, text: str, has_picture: bool) -> list[int]:
        """The ids of the question in its template, and of the answer so far."""
        question, _, answer = text.partition(CONTINUED)
        ids = super().prompt_ids(question, has_picture)
        return ids + [token for token in self.tokenizer(answer).input_ids if token != self.tokenizer.bos_token_id]


def reasoning(subject: LlavaSubject) -> Reasoning:
    """The subject, asked to reason first."""
    return Reasoning(Continued(subject.tokenizer, subject.model, subject.image_processor, subject.conv_mode))


def run(options: argparse.Namespace) -> None:
    """Answer the questions of a command line."""
    numbered = questions(options.question_file, options.num_samples, options.single_pred_prompt)
    share = (options.chunk_idx, options.num_chunks)
    asked = questions_from(
        "model_vqa_science", options.question_file, numbered, options.image_folder, options.max_new_tokens, share
    )
    write_answers(
        answer_settings(options, CONV_MODE),
        asked,
        reasoning if options.answer_prompter else None,
        single_pred_prompt=options.single_pred_prompt,
        answer_prompter=options.answer_prompter,
    )


def eval_model(args: object) -> None:
    """Answers the questions that `args` names, any object with LLaVA's attributes; the others take their defaults."""
    run(completed(args, parser()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(parser(), run, arguments)

"""Answers to a jsonl file of questions about pictures, with LLaVA's flags and every reduction flag.

    python -m llava.eval.model_vqa_loader --model-path liuhaotian/llava-v1.5-7b --conv-mode vicuna_v1 --temperature 0 \
        --question-file playground/data/eval/pope/llava_pope_test.jsonl --image-folder playground/data/eval/pope/val2014 \
        --answers-file playground/data/eval/pope/answers/llava-v1.5-7b.jsonl --reduction fastv@2:144

A question is a line {question_id, text, image}, an answer a line {question_id, prompt, text, answer_id, model_id, metadata}.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from llava.files import numbered_jsonl
from llava.mm_utils import get_model_name_from_path

from .scoring.answers_file import ask, launch, questions_from
from .scoring.answers_file import parser as shared_parser

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags with its defaults, where those can work."""
    return shared_parser("Answer the questions of a jsonl file.", conv_mode="llava_v1", max_new_tokens=128)


def run(arguments: argparse.Namespace) -> None:
    """Answer the questions; a base model that was only pretrained is asked with the template it was pretrained with."""
    name = get_model_name_from_path(arguments.model_path).lower()
    if "plain" in name and "finetune" not in name and "mmtag" not in arguments.conv_mode:
        arguments.conv_mode += "_mmtag"
        logger.info("%s is a model of plain pretraining; its template is %s", name, arguments.conv_mode)
    file = arguments.question_file
    found = ((f"{file}:{number}", line) for number, line in numbered_jsonl(file, ("question_id", "text")))
    ask(arguments, questions_from("model_vqa_loader", arguments, found))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(run, parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())

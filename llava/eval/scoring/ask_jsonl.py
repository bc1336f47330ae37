"""Answers to a jsonl file of questions about pictures, with LLaVA's flags and every reduction flag.

    python -m llava.eval.model_vqa_loader --model-path liuhaotian/llava-v1.5-7b --conv-mode vicuna_v1 --temperature 0 \
        --question-file playground/data/eval/pope/llava_pope_test.jsonl --image-folder playground/data/eval/pope/val2014 \
        --answers-file playground/data/eval/pope/answers/llava-v1.5-7b.jsonl --reduction fastv@2:144

A question is a line {question_id, text, image}, an answer a line {question_id, prompt, text, answer_id, model_id, metadata}.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace

from llava.cli.console import launch
from llava.cli.flags import completed
from llava.cli.settings import ModelSpec
from llava.files import numbered_jsonl

from .answers_file import answer_settings, questions_from, write_answers
from .answers_file import parser as shared_parser

logger = logging.getLogger(__name__)

CONV_MODE = "llava_v1"  # LLaVA's default, for checkpoints that name no template of their own


def parser(max_new_tokens: int = 128) -> argparse.ArgumentParser:
    """LLaVA's flags with its defaults, where those can work."""
    return shared_parser("Answer the questions of a jsonl file.", max_new_tokens)


def run(options: argparse.Namespace) -> None:
    """Answer the questions of a command line."""
    file, share = options.question_file, (options.chunk_idx, options.num_chunks)
    numbered = ((f"{file}:{number}", line) for number, line in numbered_jsonl(file, ("question_id", "text")))
    settings = answer_settings(options, CONV_MODE)
    settings = replace(settings, model=with_pretraining_template(settings.model))
    write_answers(
        settings,
        questions_from("model_vqa_loader", file, numbered, options.image_folder, options.max_new_tokens, share),
    )


def eval_model(args: object, flags: argparse.ArgumentParser | None = None) -> None:
    """Answers the questions that `args` names, any object with LLaVA's attributes; the others take their defaults.

    Raises ValueError naming an attribute that is missing, and as the command line does.
    """
    run(completed(args, flags or parser()))


def with_pretraining_template(spec: ModelSpec) -> ModelSpec:
    """A spec with "_mmtag" at its templates where the model, by its name, was only pretrained."""
    name = spec.name.lower()
    if "plain" not in name or "finetune" in name or "mmtag" in (spec.conv_mode or ""):
        return spec
    changed = replace(spec, usual_conv_mode="v1_mmtag", conv_mode=spec.conv_mode and f"{spec.conv_mode}_mmtag")
    logger.info("%s is a model of plain pretraining; its template is %s", name, changed.conv_mode or "v1_mmtag")
    return changed


def main(arguments: Sequence[str] | None = None, flags: argparse.ArgumentParser | None = None) -> int:
    """The command line, by default of ``parser()``; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(flags or parser(), run, arguments)

"""The documents' flags of model and questions, and the evaluation that they ask for."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import Any

from .flags import add_model_flags, model_spec, spellings
from .settings import EvalSettings

MODEL = "liuhaotian/llava-v1.5-7b"  # the documents' model


def add_question_flags(flags: ArgumentParser) -> None:
    """Adds the documented flags of model and questions; ``question_settings`` reads them."""
    add_model_flags(flags, MODEL)
    group = flags.add_argument_group("questions")

    def add(name: str, **options: Any) -> None:
        group.add_argument(*spellings(name), **options)

    add("question_file", type=Path, required=True, help="the questions, or the folder of the benchmark")
    add(
        "image_folder",
        type=Path,
        help="the pictures, in a folder or tar shards (default: where the benchmark keeps them)",
    )
    add(
        "base_dir",
        type=Path,
        help="the true answers, where they are elsewhere (default: where the benchmark keeps them)",
    )
    add(
        "num_samples",
        type=int,
        default=-1,
        help="at most this many questions, of whole pictures evenly spread (-1: all)",
    )
    add("num_chunks", type=int, default=1, help="divide the pictures into this many shares (default: 1)")
    add("chunk_idx", type=int, default=0, help="ask the questions of this share, counted from 0 (default: 0)")
    single = "ask for the option's letter, or for a word or phrase, alone, as the benchmark does (default: yes)"
    add("single_pred_prompt", action=BooleanOptionalAction, default=True, help=single)
    add("batch_size", type=int, default=8, help="questions at once (default: 8)")


def question_settings(task: str, options: Namespace) -> EvalSettings:
    """The evaluation of a command line with the flags of ``add_question_flags``.

    Raises ValueError and FileNotFoundError that name the flag.
    """
    for flag, least in (("batch_size", 1), ("num_chunks", 1), ("chunk_idx", 0)):
        if getattr(options, flag) < least:
            raise ValueError(f"{spelled(flag)} {getattr(options, flag)} must be at least {least}")
    if options.num_samples < 1 and options.num_samples != -1:
        raise ValueError(f"--num-samples {options.num_samples} must be at least 1, or -1 for all")
    if not options.question_file.exists():
        raise FileNotFoundError(
            f"--question-file {options.question_file} is not there; give the questions, or their folder"
        )
    if options.chunk_idx >= options.num_chunks:
        raise ValueError(f"--chunk-idx {options.chunk_idx} of --num-chunks {options.num_chunks} has no question")
    return EvalSettings(
        model=model_spec(options, usual_conv_mode="vicuna_v1"),
        task=task,
        data=options.question_file,
        images=options.image_folder,
        truth=options.base_dir,
        limit=None if options.num_samples == -1 else options.num_samples,
        share=(options.chunk_idx, options.num_chunks),
        instructed=options.single_pred_prompt,
        batch_size=options.batch_size,
        retry_failed=vars(options).get("retry_failed", False),
    )


def spelled(name: str) -> str:
    """A flag as it is typed."""
    return spellings(name)[0]

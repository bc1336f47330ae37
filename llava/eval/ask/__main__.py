"""One question about one picture, or several: ``llava ask "What is it?" cat.png --model-path ... --reduction fastv@2:64``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from llava.cli.console import launch
from llava.cli.flags import add_model_flags, add_reduction_flags, model_spec, reduction_kwargs
from llava.cli.loading import load_model

from ..run_llava import answer, chosen_mode, load_images
from .subject import Generation

MAX_NEW_TOKENS = 128


def parser() -> ArgumentParser:
    """The question, its pictures, the model's flags and every reduction flag."""
    flags = ArgumentParser(prog="llava ask", description="Ask a model one question about one picture, or several.")
    flags.add_argument("question")
    flags.add_argument("picture", nargs="*", help="files or addresses; none for a question without a picture")
    add_model_flags(flags)
    flags.add_argument(
        "--max-new-tokens",
        type=int,
        default=MAX_NEW_TOKENS,
        help=f"longest answer in tokens (default: {MAX_NEW_TOKENS})",
    )
    add_reduction_flags(flags)
    return flags


def ask_once(options: Namespace) -> None:
    """Load the model and write its greedy answer to stdout."""
    pictures, spec = load_images(options.picture), model_spec(options)  # a missing picture is reported at once
    loaded = load_model(spec, **reduction_kwargs(options))
    mode = chosen_mode(spec, loaded[1].config)
    sys.stdout.write(answer(loaded, options.question, pictures, mode, Generation(options.max_new_tokens)) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped."""
    return launch(parser(), ask_once, arguments, stopped="stopped")


if __name__ == "__main__":
    sys.exit(main())

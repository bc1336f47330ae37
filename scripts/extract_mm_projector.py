"""The projector of a whole checkpoint in a file that `llava.train.train --pretrain_mm_mlp_adapter` reads.

python scripts/extract_mm_projector.py --model-path liuhaotian/llava-v1.5-7b --output checkpoints/mm_projector.bin
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from llava.model.parts import save_projector
from llava.utils import exit_code

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags."""
    flags = argparse.ArgumentParser(description="Write the projector of a checkpoint to a file of its own.")
    flags.add_argument("--model-path", "--model_path", required=True, help="folder or hub name of the whole model")
    flags.add_argument("--output", required=True, help="file to write, mm_projector.bin")
    return flags


def run(args: argparse.Namespace) -> None:
    """Write the file and log what is in it."""
    logger.info("%s: %s", args.output, ", ".join(save_projector(args.model_path, args.output)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    args = parser().parse_args(arguments)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())

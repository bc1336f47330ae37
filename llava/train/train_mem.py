"""`llava.train.train` with flash attention where it is installed and there is a GPU, under the name of LLaVA's script.

deepspeed llava/train/train_mem.py FLAGS, or python -m llava.train.train_mem FLAGS
"""

from __future__ import annotations

import logging
import sys

import torch

from llava.train.train import FAILURES, STOPPED, parse, train
from llava.utils import exit_code, installed

__all__ = ["main", "parse", "train"]

logger = logging.getLogger(__name__)


def attention() -> str | None:
    """What computes attention: "flash_attention_2", or None for what transformers chooses, whose results are the same."""
    if torch.cuda.is_available() and installed("flash_attn"):
        return "flash_attention_2"
    logger.info("flash-attn needs a GPU and pip install flash-attn; attention is computed as transformers chooses")
    return None


def main(arguments: list[str] | None = None) -> int:
    """The command line of `llava.train.train`; returns the same."""
    return exit_code(lambda: train(*parse(arguments), attn_implementation=attention()), FAILURES, STOPPED)


if __name__ == "__main__":
    sys.exit(main())

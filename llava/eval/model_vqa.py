"""``model_vqa_loader`` under the name of LLaVA's first script, which has answers of up to 1,024 tokens.

python -m llava.eval.model_vqa --model-path MODEL --question-file QUESTIONS.jsonl --image-folder PICTURES
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .model_vqa_loader import run
from .scoring.answers_file import launch
from .scoring.answers_file import parser as shared_parser


def parser() -> argparse.ArgumentParser:
    """The flags of ``model_vqa_loader``; answers may be longer."""
    return shared_parser("Answer the questions of a jsonl file.", conv_mode="llava_v1", max_new_tokens=1024)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(run, parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())

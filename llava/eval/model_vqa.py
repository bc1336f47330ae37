"""``model_vqa_loader`` under the name of LLaVA's first script, which has answers of up to 1,024 tokens.

python -m llava.eval.model_vqa --model-path MODEL --question-file QUESTIONS.jsonl --image-folder PICTURES
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.cli.console import launch

from .model_vqa_loader import run
from .scoring.answers_file import parser as shared_parser


def parser() -> argparse.ArgumentParser:
    """The flags of ``model_vqa_loader``; answers may be longer."""
    return shared_parser("Answer the questions of a jsonl file.", max_new_tokens=1024)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())

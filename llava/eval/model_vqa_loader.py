"""Answers to a jsonl file of questions about pictures: ``python -m llava.eval.model_vqa_loader``; the code is in ``llava/eval/scoring/ask_jsonl.py``."""

import sys

from .scoring.ask_jsonl import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

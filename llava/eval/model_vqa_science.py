"""Answers to ScienceQA's questions: ``python -m llava.eval.model_vqa_science``; the code is in ``llava/eval/scoring/ask_scienceqa.py``."""

import sys

from .scoring.ask_scienceqa import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

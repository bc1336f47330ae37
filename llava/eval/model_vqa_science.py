"""Answers to ScienceQA's questions: ``python -m llava.eval.model_vqa_science``; the code is in ``llava/eval/scoring/ask_scienceqa.py``."""

import sys

from .scoring.ask_scienceqa import eval_model, main, parser
from .scoring.loader import get_chunk, split_list

__all__ = ["eval_model", "get_chunk", "main", "parser", "split_list"]

if __name__ == "__main__":
    sys.exit(main())

"""Answers to MMBench's questions: ``python -m llava.eval.model_vqa_mmbench``; the code is in ``llava/eval/scoring/ask_mmbench.py``."""

import sys

from .scoring.ask_mmbench import eval_model, get_options, is_none, main, parser
from .scoring.loader import get_chunk, split_list

__all__ = ["eval_model", "get_chunk", "get_options", "is_none", "main", "parser", "split_list"]

if __name__ == "__main__":
    sys.exit(main())

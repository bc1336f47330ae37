"""Answers to a jsonl file of questions about pictures: ``python -m llava.eval.model_vqa_loader``; the code is in ``llava/eval/scoring/ask_jsonl.py``."""

import sys

from .scoring.ask_jsonl import eval_model, main, parser
from .scoring.loader import CustomDataset, collate_fn, create_data_loader, get_chunk, split_list

__all__ = [
    "CustomDataset",
    "collate_fn",
    "create_data_loader",
    "eval_model",
    "get_chunk",
    "main",
    "parser",
    "split_list",
]

if __name__ == "__main__":
    sys.exit(main())

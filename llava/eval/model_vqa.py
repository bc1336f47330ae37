"""``model_vqa_loader`` under the name of LLaVA's first script, which has answers of up to 1,024 tokens.

python -m llava.eval.model_vqa --model-path MODEL --question-file QUESTIONS.jsonl --image-folder PICTURES
"""

import argparse
import sys
from collections.abc import Sequence

from .scoring import ask_jsonl
from .scoring.loader import get_chunk, split_list

__all__ = ["eval_model", "get_chunk", "main", "parser", "split_list"]


def parser() -> argparse.ArgumentParser:
    """The flags of ``model_vqa_loader``; answers may be longer."""
    return ask_jsonl.parser(max_new_tokens=1024)


def eval_model(args: object) -> None:
    """Answers the questions that `args` names; see ``ask_jsonl.eval_model``."""
    ask_jsonl.eval_model(args, parser())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return ask_jsonl.main(arguments, parser())


if __name__ == "__main__":
    sys.exit(main())

"""``python -m llava.eval.eval_answers``; the code is in ``llava/eval/scoring/eval_answers.py``."""

import sys

from .scoring.eval_answers import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

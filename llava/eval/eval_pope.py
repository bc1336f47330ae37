"""POPE's figures of an answers file: ``python -m llava.eval.eval_pope``; the code is in ``llava/eval/scoring/pope.py``."""

import sys

from .scoring.pope import eval_pope, main, parser, run

__all__ = ["eval_pope", "main", "parser", "run"]

if __name__ == "__main__":
    sys.exit(main())

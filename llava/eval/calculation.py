"""``python -m llava.eval.calculation``; the code is in ``llava/eval/scoring/calculation.py``."""

import sys

from .scoring.calculation import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

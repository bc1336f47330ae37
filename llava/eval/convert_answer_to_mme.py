"""``python -m llava.eval.convert_answer_to_mme``; the code is in ``llava/eval/scoring/convert_answer_to_mme.py``."""

import sys

from .scoring.convert_answer_to_mme import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

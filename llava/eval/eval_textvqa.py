"""TextVQA's accuracy of answers files: ``python -m llava.eval.eval_textvqa``; the code is in ``llava/eval/scoring/textvqa.py``."""

import sys

from .scoring.textvqa import main, parser, run

__all__ = ["main", "parser", "run"]

if __name__ == "__main__":
    sys.exit(main())

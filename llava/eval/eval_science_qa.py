"""ScienceQA's accuracy of an answers file: ``python -m llava.eval.eval_science_qa``; the code is in ``llava/eval/scoring/scienceqa.py``."""

import sys

from .scoring.scienceqa import main, parser, run

__all__ = ["main", "parser", "run"]

if __name__ == "__main__":
    sys.exit(main())

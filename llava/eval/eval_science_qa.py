"""ScienceQA's accuracy of an answers file: ``python -m llava.eval.eval_science_qa``; the code is in ``llava/eval/scoring/scienceqa.py``."""

import sys

from llava.absent import absent_names

from .scoring.scienceqa import get_args, get_pred_idx, main, parser, run

__all__ = ["get_args", "get_pred_idx", "main", "parser", "run"]
__getattr__ = absent_names("llava.eval.eval_science_qa")

if __name__ == "__main__":
    sys.exit(main())

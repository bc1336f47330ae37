"""``python -m llava.eval.visualize``; the code is in ``llava/eval/report/visualize.py``."""

import sys

from .report.visualize import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

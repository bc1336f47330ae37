"""``python -m llava.eval.precision``; the code is in ``llava/experiments/precision.py``."""

import sys

from llava.experiments.precision import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

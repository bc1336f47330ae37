"""``python -m llava.eval.bench``."""

import sys

from .plans import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

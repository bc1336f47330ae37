"""``python -m llava.eval.leaderboard``."""

import sys

from .command import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())

"""``python scripts/report.py ...`` is ``python -m llava.eval.report ...``."""

from __future__ import annotations

import sys

from llava.eval.report.command import main

if __name__ == "__main__":
    sys.exit(main())

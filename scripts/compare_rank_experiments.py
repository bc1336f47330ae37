"""``python scripts/compare_rank_experiments.py ...`` is ``python -m llava.analysis.rank_compare ...``."""

from __future__ import annotations

import sys

from llava.analysis.rank_compare import main

if __name__ == "__main__":
    sys.exit(main())

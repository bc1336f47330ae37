"""``python scripts/compare_rank_experiments.py ...`` is ``python -m llava.experiments.rank_compare ...``."""

from __future__ import annotations

import sys

from llava.experiments.rank_compare import main

if __name__ == "__main__":
    sys.exit(main())

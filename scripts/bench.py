"""``python scripts/bench.py ...`` is ``python -m llava.eval.bench ...``."""

from __future__ import annotations

import sys

from llava.eval.bench.command import main

if __name__ == "__main__":
    sys.exit(main())

"""``python scripts/eval.py ...`` is ``python -m llava.eval.run ...``."""

from __future__ import annotations

import sys

from llava.eval.run import main

if __name__ == "__main__":
    sys.exit(main())

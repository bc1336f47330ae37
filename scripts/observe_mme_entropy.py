"""``python scripts/observe_mme_entropy.py ...`` is ``python -m llava.analysis.entropy ...``."""

from __future__ import annotations

import sys

from llava.analysis.entropy import main

if __name__ == "__main__":
    sys.exit(main())

"""``python scripts/observe_mme_attention.py ...`` is ``python -m llava.analysis.flow ...``."""

from __future__ import annotations

import sys

from llava.analysis.flow import main

if __name__ == "__main__":
    sys.exit(main())

"""``python scripts/visualize_mme_attention_heatmap.py ...`` is ``python -m llava.analysis.heatmap ...``."""

from __future__ import annotations

import sys

from llava.analysis.heatmap import main

if __name__ == "__main__":
    sys.exit(main())

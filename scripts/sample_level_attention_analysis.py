"""``python scripts/sample_level_attention_analysis.py ...`` is ``python -m llava.analysis.flow --samples-per-category 8 ...``."""

from __future__ import annotations

import sys

from llava.analysis.flow import main

if __name__ == "__main__":
    sys.exit(main(["--output-dir", "mme_sample_level_attention", "--samples-per-category", "8", *sys.argv[1:]]))

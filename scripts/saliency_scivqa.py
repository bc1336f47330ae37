"""``python scripts/saliency_scivqa.py ...`` is ``python -m llava.analysis.saliency --task scienceqa ...``."""

from __future__ import annotations

import sys

from llava.analysis.saliency import main

if __name__ == "__main__":
    sys.exit(main(["--task", "scienceqa", "--output-dir", "scivqa_saliency_plots", *sys.argv[1:]]))

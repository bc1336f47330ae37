"""``python scripts/saliency_mme.py ...`` is ``python -m llava.analysis.saliency --task mme --result-file mme_saliency_results.pt ...``."""

from __future__ import annotations

import sys

from llava.analysis.saliency import main

if __name__ == "__main__":
    sys.exit(main(["--result-file", "mme_saliency_results.pt", *sys.argv[1:]]))

"""``python scripts/analyze_scienceqa_attention_heads.py ...`` is ``python -m llava.analysis.heads --task scienceqa ...``."""

from __future__ import annotations

import sys

from llava.analysis.heads import main

if __name__ == "__main__":
    sys.exit(main(["--task", "scienceqa", "--output-dir", "scienceqa_attention_head_analysis", *sys.argv[1:]]))

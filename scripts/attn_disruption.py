"""``python scripts/attn_disruption.py ...`` is ``python -m llava.analysis.disruption --task scienceqa ...``."""

from __future__ import annotations

import sys

from llava.analysis.disruption import main

if __name__ == "__main__":
    sys.exit(main(["--task", "scienceqa", *sys.argv[1:]]))

"""Text-weighted pruning from all visual tokens down to 16: document 004. See ``llava.experiments.rank_sweep``.

    python scripts/fastv_textweighted_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json --pruning-layer 2
"""

from __future__ import annotations

import sys

from llava.experiments.rank_sweep import main, parser

if __name__ == "__main__":
    sys.exit(main(flags=parser("text_weighted", "fastv_textweighted_layer{layer}_experiment")))

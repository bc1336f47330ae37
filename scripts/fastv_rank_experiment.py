"""FastV from all visual tokens down to 16: accuracy and the rank of the last layer's attention. See ``llava.experiments.rank_sweep``.

    python scripts/fastv_rank_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json

The documents' program prunes at layer 3.
"""

from __future__ import annotations

import sys

from llava.experiments.rank_sweep import main, parser

if __name__ == "__main__":
    flags = parser("fastv", "fastv_rank_experiment")
    flags.set_defaults(pruning_layer=3)
    sys.exit(main(flags=flags))

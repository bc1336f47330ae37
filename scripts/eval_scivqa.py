"""ScienceQA under the reduction that the flags spell, with the full model and the controls.

    python scripts/eval_scivqa.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json \
        --use-fast-v --fast-v-agg-layer 2 --fast-v-attention-rank 64 --fast-v-token-selection-method max_head
"""

from __future__ import annotations

import sys

from llava.experiments.single import inference_command
from llava.experiments.tables import answer_table

parser, main = inference_command(__doc__, "scienceqa", answer_table)

if __name__ == "__main__":
    sys.exit(main())

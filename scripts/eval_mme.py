"""MME under the reduction that the flags spell, with the full model and the controls.

    python scripts/eval_mme.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/MME-shapes \
        --use-hmap-v --hmap-v-attn-txt-layer 2 --hmap-v-attn-txt-rank 128 --hmap-v-attn-img-layer 6 --hmap-v-attn-img-rank 64
"""

from __future__ import annotations

import sys

from llava.experiments.single import inference_command
from llava.experiments.tables import score_table

parser, main = inference_command(__doc__, "mme", score_table)

if __name__ == "__main__":
    sys.exit(main())

"""Until which layer a reduced model needs the picture: HiMAP, with all visual tokens gone from layer 0, 1, 2 ... on.

    python scripts/himap_cutoff_sweep.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json

Cut-off 0 is HiMAP alone, as documented. Without flags HiMAP is the published plan (288 tokens from layer 2 on, 72 from layer
8; layers are of 32, in proportion for another depth); --hmap-v-... changes it, --no-use-hmap-v sweeps the dense model, and
any other method's flags, or --reduction, that method. The control has the same budgets at the same layers, chosen at random.
"""

from __future__ import annotations

import sys

from llava.experiments.himap_cutoff import command

parser, main = command(__doc__)

if __name__ == "__main__":
    sys.exit(main())

"""Until which layer MME needs the picture: all visual tokens are taken away from layer 2 on, from layer 3 on, and so on.

    python scripts/mme_cutoff_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/MME-shapes

This is FastV with a rank of 0. At the model's depth nothing is taken away. The control has as many visual tokens on the mean
of the layers, but the same ones in every layer: a random share of the picture.
"""

from __future__ import annotations

import sys

from llava.experiments.catalogue import MME_CUTOFF

parser, main = MME_CUTOFF.command(__doc__)

if __name__ == "__main__":
    sys.exit(main())

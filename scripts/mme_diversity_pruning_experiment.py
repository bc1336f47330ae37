"""Pruning by diversity on MME: a few tokens, chosen by how they differ and left as they are, from layer 1 on, 2 on, ...

    python scripts/mme_diversity_pruning_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/MME-shapes --methods fps,tome --keep-tokens 8

``fps`` takes tokens far apart from each other, ``tome`` the hearts of clusters. Only the picture's tokens are chosen among;
they keep their order and positions. At the model's depth nothing is taken away.
"""

from __future__ import annotations

import sys

from llava.experiments.catalogue import MME_DIVERSITY_PRUNING

parser, main = MME_DIVERSITY_PRUNING.command(__doc__)

if __name__ == "__main__":
    sys.exit(main())

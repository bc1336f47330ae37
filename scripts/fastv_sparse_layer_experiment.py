"""How few tokens are enough, and from where: FastV keeps 8 of them from layer 2 on, from layer 3 on, and so on.

    python scripts/fastv_sparse_layer_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json --kept-tokens 8

The tokens are chosen by the attention of the layer before, out of all of the picture's. At the model's depth nothing is
taken away.
"""

from __future__ import annotations

import sys

from llava.experiments.catalogue import FASTV_SPARSE_LAYER

parser, main = FASTV_SPARSE_LAYER.command(__doc__)

if __name__ == "__main__":
    sys.exit(main())

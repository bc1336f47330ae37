"""Custom selection from layer 2 on, from layer 3 on, and so on: a few centres, each mixed with what is like it.

    python scripts/fastv_custom_selection_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json --kept-tokens 8 --selection-method fps

The other tokens are dropped; ``--custom-placement zero_fill`` puts zeros in their place, as the documents' scripts do, which
saves nothing. At the model's depth nothing is taken away.
"""

from __future__ import annotations

import sys

from llava.experiments.catalogue import FASTV_CUSTOM_SELECTION

parser, main = FASTV_CUSTOM_SELECTION.command(__doc__)

if __name__ == "__main__":
    sys.exit(main())

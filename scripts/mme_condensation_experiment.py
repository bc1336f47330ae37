"""Condensation against hard pruning on MME: as many tokens from every layer of a range on, three ways and at random.

    python scripts/mme_condensation_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/MME-shapes --run-all --target-tokens 100

Hard pruning keeps the tokens that the text attends to most (HiMAP's first stage, which condensation was proposed to
replace; ``--hard-pruning-method fastv``: the last token alone). The JSON has total, perception, cognition and subtask scores
of every method at every layer; the figure the totals, the two halves, and the improvement over hard pruning in per cent.
"""

from __future__ import annotations

import sys

from llava.experiments.catalogue import MME_CONDENSATION

parser, main = MME_CONDENSATION.command(__doc__)

if __name__ == "__main__":
    sys.exit(main())

"""Custom selection on ScienceQA: a few centres, each mixed with what is like it, take the place of the picture's tokens.

    python scripts/custom_selection_inference.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json \
        --custom-kept-tokens 8 --custom-selection-method fps --custom-agg-layer 2 --custom-temperature 0.1

As documented the other tokens become zeros, which saves nothing; ``--custom-placement drop`` really shortens. The full model,
no picture, and as many tokens at random stand under ``controls`` in the JSON; ``--baseline`` asks the full model alone.
"""

from __future__ import annotations

import sys

from llava.experiments.single import custom_selection_command

parser, main = custom_selection_command(__doc__)

if __name__ == "__main__":
    sys.exit(main())

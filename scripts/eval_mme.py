"""MME under the reduction that the flags spell, with the full model and the controls.

    python scripts/eval_mme.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/MME-shapes \
        --use-hmap-v --hmap-v-attn-txt-layer 2 --hmap-v-attn-txt-rank 128 --hmap-v-attn-img-layer 6 --hmap-v-attn-img-rank 64
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.experiments import infer, inference_parser, launch, score_table


def parser() -> argparse.ArgumentParser:
    """The common flags and every reduction flag."""
    return inference_parser(__doc__, "mme")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), lambda given: infer(given, "mme", "mme", score_table), arguments)


if __name__ == "__main__":
    sys.exit(main())

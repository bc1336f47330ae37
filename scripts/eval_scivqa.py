"""ScienceQA under the reduction that the flags spell, with the full model and the controls.

    python scripts/eval_scivqa.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json \
        --use-fast-v --fast-v-agg-layer 2 --fast-v-attention-rank 64 --fast-v-token-selection-method max_head
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.experiments import answer_table, infer, inference_parser, launch


def parser() -> argparse.ArgumentParser:
    """The common flags and every reduction flag."""
    return inference_parser(__doc__, "scienceqa")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), lambda given: infer(given, "scienceqa", "scienceqa", answer_table), arguments)


if __name__ == "__main__":
    sys.exit(main())

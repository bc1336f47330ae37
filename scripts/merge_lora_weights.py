"""A LoRA merged into its base and written as a checkpoint that needs no base.

python scripts/merge_lora_weights.py --model-path checkpoints/llava-v1.5-7b-lora --model-base lmsys/vicuna-7b-v1.5 \
    --save-model-path checkpoints/merged
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.model.parts import save_merged
from llava.utils import exit_code


def parser() -> argparse.ArgumentParser:
    """LLaVA's flags, and the type of what is written."""
    flags = argparse.ArgumentParser(description="Merge a LoRA, or a projector alone, into its base.")
    flags.add_argument("--model-path", "--model_path", required=True, help="folder or hub name of the LoRA")
    flags.add_argument("--model-base", "--model_base", required=True, help="the model that it belongs to")
    flags.add_argument("--save-model-path", "--save_model_path", required=True, help="new folder")
    flags.add_argument("--dtype", default="float16", help="float16, bfloat16 or float32 (default: float16)")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    args = parser().parse_args(arguments)
    bad = (ValueError, OSError, ImportError)
    return exit_code(lambda: save_merged(args.model_path, args.model_base, args.save_model_path, args.dtype), bad)


if __name__ == "__main__":
    sys.exit(main())

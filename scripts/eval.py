"""``python scripts/eval.py ...`` is ``python -m llava.eval.run ...``, and knows what the documents' command lines leave out.

    python scripts/eval.py --fast_v_token_selection_method weighted_combination --fast_v_weighted_alpha 0.7

The document that types this sets the rest in its example configuration: FastV is on and keeps 288 tokens. Model and questions
are, unless given, those in the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from llava.eval.run import main as evaluate
from llava.shapes.export import export

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "playground/checkpoints/llava-shapes-v1"
DATA = ROOT / "playground/data/eval/MME-shapes"
KEPT = "288"


def completed(arguments: Sequence[str]) -> list[str]:
    """A command line with the documented values of what it does not say."""
    said = {word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")}
    found = list(arguments)
    if any(word.startswith("--fast-v-") for word in said) and not said & {
        "--use-fast-v",
        "--no-use-fast-v",
        "--reduction",
    }:
        found.append("--use-fast-v")
        said.add("--use-fast-v")
    if "--use-fast-v" in said and "--fast-v-attention-rank" not in said:
        found += ["--fast-v-attention-rank", KEPT]
    if "--model-path" not in said:
        found += ["--model-path", str(MODEL)]
    if not said & {"--data", "--task"}:
        found += ["--data", str(DATA)]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; draws the questions of the repository where they are asked and not there yet."""
    words = completed(sys.argv[1:] if arguments is None else arguments)
    if str(DATA) in words and not DATA.exists():
        export("mme", DATA)
    return evaluate(words)


if __name__ == "__main__":
    sys.exit(main())

"""TextVQA's accuracy of answers files: ``python -m llava.eval.eval_textvqa``; the code is in ``llava/eval/scoring/textvqa.py``."""

import sys

from .scoring.textvqa import eval_single, get_args, main, parser, prompt_processor, run

__all__ = ["eval_single", "get_args", "prompt_processor", "main", "parser", "run"]

if __name__ == "__main__":
    sys.exit(main())

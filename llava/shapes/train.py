"""Train the embedded model: ``python -m llava.shapes.train``, or refine one with ``--start CHECKPOINT``.

Tower, tokenizer, projector and language model (``CURRICULUM``, then ``REFINEMENT``), then one checkpoint in LLaVA-1.5's
published layout. With ``--start`` all but the refinement is taken from a checkpoint. Every stage resumes from the work
folder, so the command can be stopped and given again; two cores need hours, and one for the refinement.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.shipped import EMBEDDED
from llava.utils import exit_code

from .checkpoint import export, load
from .following import train_language_model
from .language import train_tokenizer
from .lessons import Phase
from .packing import cache_pictures
from .tower import train_tower

logger = logging.getLogger(__name__)

TOWER_STEPS, WHOLE_PICTURES = 1700, 200
PICTURES, PICTURE_SEED = 8000, 21
REFINED_PICTURES, REFINED_SEED, REFINEMENT_SEED = 4000, 22, 6
# Captions and lookup questions first, then the benchmark's mix, then with the patches gone from the later layers in half
# of the steps, then all 576 patches and twelve layers, and two more before them: as trained so far the first two layers
# read all they need, and nothing that is thrown away at layer 2 would cost anything. At the end, more counting and sums.
# fmt: off
CURRICULUM = [
    #     until layers patches rate pictures questions caption open yes/no suffix shallow
    Phase( 450,  4,    144, 2.5e-3,   16,       8,     0.5,    0.5, 0.0,   0.0),
    Phase(1800,  6,    136, 1.5e-3,    8,      24,     0.08,   0.3, 0.6,   0.0,   0.0, horizon=3000),
    Phase(2800,  6,    136, 1.5e-3,    8,      24,     0.05,   0.2, 0.7,   0.0,   0.5),
    Phase(3050, 12,    576, 8.0e-4,    8,      12,     0.0,    0.2, 0.7,   0.8,   0.5),
    Phase(3400, 14,    576, 8.0e-4,    8,      12,     0.0,    0.1, 0.8,   0.8,   0.5, below=2),
    Phase(3900, 14,    576, 8.0e-4,    8,      16,     0.0,    0.1, 0.8,   0.8,   0.5, counting_share=0.4, below=2),
]
# From the model so far: MME's second instruction, option letters, and all that it knows; the rate falls to zero once more.
REFINEMENT = [
    #     until layers patches rate pictures questions caption open yes/no suffix shallow
    Phase( 300, 14,    144, 4.0e-4,    4,      12,     0.02,   0.11, 0.35,  0.7,   0.5, counting_share=0.3,
          yes_or_no_share=0.5, bare_letter_share=0.3, below=2, horizon=640),
    Phase( 400, 14,    144, 6.0e-4,    4,      12,     0.02,   0.11, 0.35,  0.7,   0.5, counting_share=0.3,
          yes_or_no_share=0.5, bare_letter_share=0.3, below=2, horizon=740),
    Phase( 600, 14,    144, 5.0e-4,    4,      12,     0.02,   0.12, 0.38,  0.7,   0.5, counting_share=0.3,
          yes_or_no_share=0.5, bare_letter_share=0.4, below=2, horizon=700),
    Phase( 800, 14,    144, 5.0e-4,    4,      12,     0.02,   0.12, 0.38,  0.7,   0.5, counting_share=0.3,
          yes_or_no_share=0.5, bare_letter_share=0.4, below=2, horizon=850),
    Phase( 960, 14,    144, 4.0e-4,    4,      12,     0.02,   0.15, 0.38,  0.7,   0.5, counting_share=0.35,
          yes_or_no_share=0.5, bare_letter_share=0.3, below=2, horizon=1000),
    Phase(1080, 14,    576, 1.5e-4,    4,      12,     0.02,   0.15, 0.38,  0.7,   0.5, counting_share=0.35,
          yes_or_no_share=0.5, bare_letter_share=0.3, below=2),
    Phase(1220, 14,    576, 2.5e-4,    4,      12,     0.02,   0.12, 0.58,  0.7,   0.5, counting_share=0.2,
          yes_or_no_share=0.4, bare_letter_share=0.3, below=2),
    Phase(1400, 14,    576, 3.0e-4,    8,      12,     0.02,   0.12, 0.62,  0.7,   0.5, counting_share=0.4,
          yes_or_no_share=0.4, bare_letter_share=0.3, below=2),
    Phase(1540, 14,    576, 2.0e-4,    8,      12,     0.04,   0.12, 0.58,  0.7,   0.5, counting_share=0.4,
          yes_or_no_share=0.4, bare_letter_share=0.3, reading_share=0.4, below=2),
]
# fmt: on


def parser() -> argparse.ArgumentParser:
    """The folder to write, the folder to work in, and what to start from."""
    flags = argparse.ArgumentParser(
        prog="llava shapes train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--output", type=Path, default=Path(EMBEDDED))
    flags.add_argument(
        "--work", type=Path, default=Path("playground/training"), help="folder for states, features and the log"
    )
    flags.add_argument("--start", type=Path, help="an embedded model's folder, to be refined (default: from nothing)")
    return flags


def train(output: Path, work: Path, start: Path | None = None) -> None:
    """Train, or refine the checkpoint ``start``, and write ``output``; stopped, it resumes from the states in ``work``.

    Raises FileNotFoundError or ValueError where ``start`` is not an embedded model, or ``work`` holds another one's
    states.
    """
    if start is not None:
        tower, tokenizer, model, projector = load(start)
        tokenizer_file = start / "tokenizer.model"
    else:
        tower = train_tower(work, TOWER_STEPS, whole=WHOLE_PICTURES)
        tokenizer, tokenizer_file = train_tokenizer(work), work / "tokenizer.model"
        pictures = cache_pictures(tower, work, PICTURES, PICTURE_SEED)
        model, projector = train_language_model(pictures, tokenizer, work, CURRICULUM)
    pictures = cache_pictures(tower, work, REFINED_PICTURES, REFINED_SEED)
    model, projector = train_language_model(
        pictures, tokenizer, work, REFINEMENT, seed=REFINEMENT_SEED, start=(model, projector), stage="refinement"
    )
    export(tower, projector, model, tokenizer_file, output)
    logger.info("wrote %s", output)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    options = parser().parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(options.work / "train.log")],
    )
    return exit_code(lambda: train(options.output, options.work, options.start))


if __name__ == "__main__":
    sys.exit(main())

"""Train the model of real parts, and write what it has learnt as a LoRA beside a projector.

    llava things build                                  # the untrained parts
    llava things train                                  # hours on a CPU; given again, it resumes

The projector is aligned with the words first, then each stage of the curriculum is one training by
``llava.train.train``. It begins with what was shipped before.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.cli.console import launch

from .build import LEARNT as OUTPUT
from .build import OUTPUT as BASE
from .parts import CACHE, DEBIAN
from .training.curriculum import CURRICULUM
from .training.run import train_things
from .world import load_world

logger = logging.getLogger(__name__)

WORK = Path("playground/training/things")
STOPPED = "stopped; the same command resumes from the last checkpoint"


def parser() -> argparse.ArgumentParser:
    """Folders, and how far to go."""
    flags = argparse.ArgumentParser(
        prog="llava things train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--base", type=Path, default=BASE, help=f"the untrained parts (default {BASE})")
    flags.add_argument("--work", type=Path, default=WORK, help=f"pictures, checkpoints, logs (default {WORK})")
    flags.add_argument("--output", type=Path, default=OUTPUT, help=f"folder of what was learnt (default {OUTPUT})")
    stages = [stage.name for stage in CURRICULUM]
    flags.add_argument("--until", choices=stages, default=stages[-1], help="last stage (default: %(default)s)")
    flags.add_argument("--cache", type=Path, default=CACHE, help=f"where packages are kept (default {CACHE})")
    flags.add_argument("--mirror", default=DEBIAN, help=f"Debian mirror (default {DEBIAN})")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped."""

    def work(options: argparse.Namespace) -> None:
        world = load_world(options.cache, options.mirror)
        learnt = train_things(options.base, world, options.work, options.output, options.until, progress=True)
        logger.info("wrote %s", learnt)

    return launch(
        parser(), work, arguments, bad=(ValueError, OSError, ImportError, FloatingPointError), stopped=STOPPED
    )


if __name__ == "__main__":
    sys.exit(main())

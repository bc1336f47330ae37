"""The drawn world in the layouts of real benchmarks, those of ``llava.worlds.export``.

python -m llava.shapes.export --format mme --output playground/data/eval/MME-shapes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.utils import exit_code
from llava.worlds.export import export_world
from llava.worlds.flags import add_export_flags

from . import world
from .layouts import Shapes

__all__ = ["export", "main", "parser", "world"]


def export(layout: str, output: str | Path, images: int | None = None, seed: int = 0, progress: bool = False) -> Path:
    """As ``export_world`` of the drawn world."""
    return export_world(Shapes(), layout, output, images, seed, progress)


def parser() -> argparse.ArgumentParser:
    """Layout, folder, how many pictures, seed."""
    flags = argparse.ArgumentParser(prog="llava shapes export", description="Draw the embedded world as a benchmark.")
    return add_export_flags(flags, Shapes.images)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    options = parser().parse_args(arguments)
    return exit_code(lambda: export(options.format, options.output, options.images, options.seed, progress=True))


if __name__ == "__main__":
    sys.exit(main())

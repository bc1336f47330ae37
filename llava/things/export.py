"""The world of things in the layouts of real benchmarks, those of ``llava.worlds.export``.

    llava things export --format mme --output playground/data/eval/MME-things

The first 200 pictures of seed 0 come with the repository; others are drawn, for which two Debian packages (208 MB) are fetched once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.cli.console import launch
from llava.worlds.export import export_world, number_of_pictures
from llava.worlds.flags import add_export_flags

from .parts import CACHE, DEBIAN
from .world.benchmark import SHIPPED, Things, open_things


def export(
    layout: str,
    output: str | Path,
    images: int | None = None,
    seed: int = 0,
    progress: bool = False,
    cache: Path = CACHE,
    mirror: str = DEBIAN,
    folder: Path = SHIPPED,
) -> Path:
    """As ``export_world`` of the world of things.

    cache, mirror: of the packages. folder: of the pictures that come with the repository. Raises as ``export_world`` and ``load_world``.
    """
    number = number_of_pictures(Things.images, layout, images)
    world = open_things(layout, number, seed, cache, mirror, folder)
    return export_world(world, layout, output, number, seed, progress)


def parser() -> argparse.ArgumentParser:
    """Layout, folder, how many pictures, seed, and where pictures come from."""
    flags = argparse.ArgumentParser(
        prog="llava things export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_export_flags(flags, Things.images)
    flags.add_argument("--cache", type=Path, default=CACHE, help=f"where packages are kept (default {CACHE})")
    flags.add_argument("--mirror", default=DEBIAN, help=f"Debian mirror (default {DEBIAN})")
    flags.add_argument(
        "--pictures", type=Path, default=SHIPPED, help=f"folder of the repository's pictures (default {SHIPPED})"
    )
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped."""

    def work(options: argparse.Namespace) -> None:
        given = (options.format, options.output, options.images, options.seed)
        export(*given, progress=True, cache=options.cache, mirror=options.mirror, folder=options.pictures)

    return launch(parser(), work, arguments, stopped="stopped; nothing half drawn is left under the name asked for")


if __name__ == "__main__":
    sys.exit(main())

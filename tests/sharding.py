"""Tar shards of a folder, for tests of what reads them."""

from __future__ import annotations

import tarfile
from pathlib import Path


def make_shards(folder: Path, files: list[Path], pattern: Path, count: int = 3) -> str:
    """Deals files out to ``count`` tars, named by their place in ``folder``; returns the name of all of them.

    pattern: their name, with ``{}`` where their number stands.
    """
    pattern.parent.mkdir(exist_ok=True)
    for number in range(count):
        with tarfile.open(str(pattern).format(number), "w") as archive:
            for file in files[number::count]:
                archive.add(file, file.relative_to(folder))
    return str(pattern).format(f"{{0..{count - 1}}}")

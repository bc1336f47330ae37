"""Which patches a plan kept of a few pictures, stored next to its answers so that a report can draw them without a model.

=============================  ====================================================================================
``RESULTS/PLAN/samples.json``  ``format``, and ``samples``: one entry per question about a chosen picture
``RESULTS/pictures/*.jpg``     the pictures as the tower sees them, squared and resized, once for all plans
=============================  ====================================================================================

An entry has ``key`` of the question, ``picture`` (the file, from RESULTS), ``layers`` of the decoder, ``patches`` along
each side of the picture, and ``stages``, each with its ``stage`` in short spelling, the ``layer`` from which it holds (null:
before the decoder), ``merges`` and ``kept``: the patches left after it as a bit mask in raster order, the first patch the
highest bit of the first byte, in hexadecimal. A picture that the tower sees in several crops has no single grid: its
``patches`` are null and it has no stages.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from llava.files import read_json, write_json

FORMAT = 1
FILE = "samples.json"
SIDE = 336  # pixels of the longest side of a stored picture
QUALITY = 75


def has_samples(folder: Path) -> bool:
    """Whether samples were stored since the run's configuration was."""
    file = folder / FILE
    return file.is_file() and file.stat().st_mtime >= (folder / "config.yaml").stat().st_mtime


def write(folder: Path, entries: list[dict]) -> None:
    """Store the entries of a run."""
    write_json(folder / FILE, {"format": FORMAT, "samples": entries})


def to_mask(kept: Iterable[int], patches: int) -> str:
    """Indices as a bit mask in hexadecimal; patch 0 is the highest bit of the first byte."""
    bits = np.zeros(patches, dtype=bool)
    bits[list(kept)] = True
    return np.packbits(bits).tobytes().hex()


def from_mask(mask: str, patches: int) -> list[int]:
    """The indices in a bit mask. Raises ValueError for a mask that does not have this many patches."""
    data = np.frombuffer(bytes.fromhex(mask), dtype=np.uint8)
    if len(data) != math.ceil(patches / 8):
        raise ValueError(
            f"mask={mask[:16]!r}... has {8 * len(data)} bits, {patches} patches need as many, in whole bytes"
        )
    return np.flatnonzero(np.unpackbits(data)[:patches]).tolist()


def store(results: Path, picture: Image.Image) -> str:
    """Write a picture once, under a name that its content gives; returns the file's path from ``results``."""
    content, small = io.BytesIO(), picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    small.save(content, "JPEG", quality=QUALITY, optimize=True)
    file = results / "pictures" / f"{zlib.crc32(content.getvalue()):08x}.jpg"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
    return str(file.relative_to(results))


def read(folder: Path) -> list[dict]:
    """The entries of a run's folder; none where it has no samples.

    Raises ValueError naming the file that is of another format or lacks something.
    """
    file = folder / FILE
    if not file.is_file():
        return []
    content = read_json(file)
    if content.get("format") != FORMAT:
        raise ValueError(f"{file} is of format {content.get('format')}, this version reads {FORMAT}; remove it")
    try:
        for entry in content["samples"]:
            lacking = [name for name in ("key", "picture", "layers") if name not in entry]
            for stage in entry["stages"]:
                lacking += [name for name in ("stage", "layer", "merges") if name not in stage]
                from_mask(stage["kept"], entry["patches"] ** 2)
            if lacking:
                raise KeyError(", ".join(lacking))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds an entry that is not whole ({error}); remove it and run again") from None
    return content["samples"]

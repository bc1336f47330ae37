"""Scenes of the world of things: which things lie where, and the picture of it; only the seed decides.

A picture is 336 x 336 pixels, the input of the tower: one patch of 14 pixels is one of 576 visual tokens. A thing is 56 to 150 pixels
long, 4 to 11 patches. Boxes are (left, top, right, bottom) in pixels, around what is visible of a thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..pictures import Thing, fetch_things
from .grounds import PAINTED, fetch_photographs, painted, photographed
from .names import alike

SIZE = 336  # pixels
PATCH = 14
GRID = SIZE // PATCH
MOST = 8  # things in a picture
SMALLEST, LARGEST = 56, 150  # pixels of a thing's longer side
PHOTOGRAPHED = 0.6  # share of the pictures whose ground is a photograph
REPEATED = 0.45  # share of the pictures with several things of one name
TURN = 12  # degrees at most
TOUCH = 0.1  # share of the smaller box that another may cover
KEPT = 400  # pixels of the longer side of a cut-out that is kept in memory

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Placed:
    """A thing in a scene: its box, whether it is mirrored, its turn in degrees, and its light (1: as photographed)."""

    thing: Thing
    box: Box
    mirrored: bool
    turn: float
    light: float

    @property
    def name(self) -> str:
        return self.thing.name

    @property
    def kind(self) -> str:
        return self.thing.kind

    @property
    def middle(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class Scene:
    """What a picture shows: its things from back to front, and the name of its ground."""

    items: tuple[Placed, ...]
    ground: str
    seed: tuple[int, ...]

    def only(self, name: str) -> Placed | None:
        """The one thing of this name, or None where there are none or several."""
        found = [item for item in self.items if item.name == name]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class World:
    """Things and photographs of grounds, from which scenes are made."""

    things: tuple[Thing, ...]
    photographs: dict[str, Path]

    def scene(self, *seed: int, least: int = 2, most: int = MOST) -> Scene:
        """A scene of ``least`` to ``most`` things; names that may be confused do not occur in one scene.

        In some scenes one thing is there two to four times. A thing that finds no place is left out, so that there may be fewer.
        """
        if not 1 <= least <= most <= MOST:
            raise ValueError(f"least={least}, most={most} are no numbers of things; give 1 <= least <= most <= {MOST}")
        rng = np.random.default_rng(seed)
        number = int(rng.integers(least, most + 1))
        copies = int(rng.integers(2, 5)) if number > 1 and rng.random() < REPEATED else 1
        copies = min(copies, number)
        chosen = self.apart(rng, number - copies + 1)
        ground = (
            str(rng.choice(sorted(self.photographs))) if self.photographs and rng.random() < PHOTOGRAPHED else PAINTED
        )
        return Scene(_placed([chosen[0]] * copies + chosen[1:], rng), ground, tuple(int(part) for part in seed))

    def apart(self, rng: np.random.Generator, number: int, taken: Sequence[str] = ()) -> list[Thing]:
        """``number`` random things whose names cannot be confused with one another, nor with those in ``taken``."""
        chosen: list[Thing] = []
        for index in rng.permutation(len(self.things)):
            thing = self.things[index]
            if not any(alike(thing.name, other) for other in (*taken, *(one.name for one in chosen))):
                chosen.append(thing)
            if len(chosen) == number:
                break
        return chosen

    def render(self, scene: Scene) -> Image.Image:
        """The picture of a scene: RGB, 336 x 336 pixels."""
        rng = np.random.default_rng((*scene.seed, 1))
        picture = (
            painted(SIZE, rng) if scene.ground == PAINTED else photographed(self.photographs[scene.ground], SIZE, rng)
        )
        for item in scene.items:
            tile = _tile(item)
            picture.paste(tile, _corner(item), tile.getchannel("A"))
        return picture


def load_world(cache: Path, mirror: str) -> World:
    """The world of all things and grounds, fetched from a Debian mirror into ``cache`` once. Raises as ``download`` does."""
    cache = cache.expanduser()
    return World(tuple(fetch_things(cache, mirror)), fetch_photographs(cache, mirror))


def patch_owner(scene: Scene, least: float = 0.25) -> np.ndarray:
    """Which thing a patch shows: (24, 24) int index into ``scene.items``, -1 where none covers ``least`` of it."""
    owner = np.full((GRID, GRID), -1)
    for number, item in enumerate(scene.items):  # what is in front comes last
        canvas = Image.new("L", (SIZE, SIZE))
        tile = _tile(item)
        canvas.paste(tile.getchannel("A"), _corner(item))
        covered = np.asarray(canvas.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32) / 255
        owner[covered >= least] = number
    return owner


def _placed(things: Sequence[Thing], rng: np.random.Generator) -> tuple[Placed, ...]:
    """Give every thing a place where it hardly covers another, or leave it out."""
    placed: list[Placed] = []
    for thing in things:
        mirrored, turn = bool(rng.random() < 0.5), float(rng.uniform(-TURN, TURN))
        light, length = float(rng.uniform(0.8, 1.15)), float(rng.uniform(SMALLEST, LARGEST))
        width, height = _cut_out(thing.file, mirrored, turn).size
        for _ in range(60):
            scale = length / max(width, height)
            wide, high = width * scale, height * scale
            left, top = rng.uniform(0, SIZE - wide), rng.uniform(0, SIZE - high)
            box = (float(left), float(top), float(left + wide), float(top + high))
            if all(_covered(box, other.box) <= TOUCH for other in placed):
                placed.append(Placed(thing, box, mirrored, turn, light))
                break
            length = max(SMALLEST, 0.97 * length)
    return tuple(placed)


def _covered(one: Box, other: Box) -> float:
    """The share of the smaller box that the other covers."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0.0, wide) * max(0.0, high) / smaller


def _corner(item: Placed) -> tuple[int, int]:
    return round(item.box[0]), round(item.box[1])


@lru_cache(maxsize=64)
def _tile(item: Placed) -> Image.Image:
    """A thing as it is pasted, RGBA."""
    left, top, right, bottom = item.box
    size = (max(1, round(right - left)), max(1, round(bottom - top)))
    tile = _cut_out(item.thing.file, item.mirrored, item.turn).resize(size, Image.Resampling.LANCZOS)
    lit = tile.convert("RGB").point(lambda value: value * item.light)
    lit.putalpha(tile.getchannel("A"))
    return lit


@lru_cache(maxsize=256)
def _cut_out(file: Path, mirrored: bool, turn: float) -> Image.Image:
    """A thing mirrored and turned, cut to what is visible of it."""
    cut = ImageOps.mirror(_photograph(file)) if mirrored else _photograph(file)
    turned = cut.rotate(turn, resample=Image.Resampling.BICUBIC, expand=True)
    return turned.crop(turned.getchannel("A").point([255 * (alpha > 40) for alpha in range(256)]).getbbox())


@lru_cache(maxsize=256)
def _photograph(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        cut = opened.convert("RGBA")
    cut = cut.crop(cut.getchannel("A").getbbox())
    cut.thumbnail((KEPT, KEPT))
    return cut

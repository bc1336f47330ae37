"""The drawn world: pictures of coloured shapes, digits and letters, deterministic by seed.

A picture is 336 x 336 pixels, the input of LLaVA-1.5's tower, so one patch of 14 pixels is one visual token. Objects are
30 to 58 pixels wide, two to four patches, among 576: throwing tokens away blindly loses objects. Nothing here is
downloaded, and only the seed decides what is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 336
PATCH = 14
GRID = SIZE // PATCH

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "diamond")
DIGITS = tuple("0123456789")
SUMMANDS = DIGITS[1:6]  # the digits of pictures that show two
LETTERS = tuple("ABCEHKMRTX")
KINDS = SHAPES + DIGITS + LETTERS
COLOURS = {
    "red": (214, 32, 40),
    "green": (28, 148, 62),
    "blue": (36, 84, 214),
    "yellow": (240, 200, 16),
    "purple": (132, 44, 166),
    "orange": (240, 124, 20),
    "black": (28, 28, 32),
}
TEXTURES = ("plain", "striped", "dotted", "checked")

_SUPERSAMPLE = 3


@dataclass(frozen=True)
class Item:
    """One object: what it is, its colour, its centre (x, y), its width and its rotation (pixels, degrees)."""

    kind: str
    colour: str
    x: float
    y: float
    width: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """All that a picture shows; drawing it again gives the same pixels."""

    items: tuple[Item, ...]
    texture: str
    seed: tuple[int, ...]

    @property
    def shapes(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.kind in SHAPES)

    @property
    def glyphs(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.kind not in SHAPES)

    def only(self, kind: str) -> Item | None:
        """The one object of this kind, or None when there are none or several."""
        matches = [item for item in self.items if item.kind == kind]
        return matches[0] if len(matches) == 1 else None


def make_scene(*seed: int) -> Scene:
    """Compose a picture: 3-5 kinds of shape, one of them perhaps repeated, and a letter, a digit or two digits."""
    rng = np.random.default_rng(seed)
    kinds = list(rng.choice(SHAPES, size=rng.integers(3, 6), replace=False))
    kinds += [kinds[0]] * int(rng.choice([0, 1, 2, 3], p=[0.25, 0.25, 0.25, 0.25]))
    glyphs = rng.choice(["letter", "digit", "two digits"], p=[0.35, 0.25, 0.4])
    if glyphs == "letter":
        kinds.append(rng.choice(LETTERS))
    elif glyphs == "digit":
        kinds.append(rng.choice(DIGITS))
    else:
        kinds += list(rng.choice(SUMMANDS, size=2))
    return _arrange(kinds, rng, seed)


def make_crowd(*seed: int) -> Scene:
    """Compose a crowded picture, 16 objects of any kind: what the tower is trained on before any question is asked."""
    rng = np.random.default_rng(seed)
    return _arrange(list(rng.choice(KINDS, size=16)), rng, seed)


def _arrange(kinds: list[str], rng: np.random.Generator, seed: tuple[int, ...]) -> Scene:
    """Give every object a place where it touches no other, a colour, a width and a slight turn."""
    items: list[Item] = []
    for kind in kinds:
        for _ in range(200):
            width = float(rng.uniform(30, 58))
            x, y = rng.uniform(width / 2 + 4, SIZE - width / 2 - 4, size=2)
            if all(math.hypot(x - other.x, y - other.y) > 0.62 * (width + other.width) for other in items):
                colour = str(rng.choice(list(COLOURS)))
                items.append(Item(str(kind), colour, float(x), float(y), width, float(rng.uniform(-12, 12))))
                break
    return Scene(tuple(items), str(rng.choice(TEXTURES)), tuple(int(number) for number in seed))


def render(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB image of 336 x 336 pixels."""
    rng = np.random.default_rng((*scene.seed, 1))
    image = _background(scene.texture, rng)
    _distractors(image, rng)
    for item in scene.items:
        tile = _mask(item)
        colour = tuple(int(v) for v in np.clip(np.array(COLOURS[item.colour]) + rng.integers(-12, 13, size=3), 0, 255))
        corner = (round(item.x - tile.width / 2), round(item.y - tile.height / 2))
        image.paste(colour, (*corner, corner[0] + tile.width, corner[1] + tile.height), tile)
    return image


def coverage(item: Item) -> np.ndarray:
    """Share of every patch that the object covers: (24, 24) float in [0, 1]."""
    canvas = Image.new("L", (SIZE, SIZE))
    tile = _mask(item)
    canvas.paste(tile, (round(item.x - tile.width / 2), round(item.y - tile.height / 2)))
    return np.asarray(canvas.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32) / 255


def patch_owner(scene: Scene, least: float = 0.12) -> np.ndarray:
    """Which object a patch shows: (24, 24) int index into ``scene.items``, -1 where none covers ``least`` of it."""
    shares = np.stack([coverage(item) for item in scene.items])
    owner = shares.argmax(axis=0)
    owner[shares.max(axis=0) < least] = -1
    return owner


def _background(texture: str, rng: np.random.Generator) -> Image.Image:
    base = rng.integers(205, 246, size=3)
    second = np.clip(base + rng.choice([-1, 1]) * rng.integers(16, 30), 150, 255)
    step = int(rng.integers(10, 17))
    x, y = np.arange(SIZE)[None, :], np.arange(SIZE)[:, None]
    if texture == "striped":
        pattern = (x + y if rng.random() < 0.5 else x - y) // step % 2 == 0
    elif texture == "checked":
        pattern = (x // step + y // step) % 2 == 0
    elif texture == "dotted":
        pattern = (x % (2 * step) - step) ** 2 + (y % (2 * step) - step) ** 2 < (0.55 * step) ** 2
    else:
        pattern = np.zeros((SIZE, SIZE), dtype=bool)
    pixels = np.where(pattern[..., None], second.astype(np.float32), base.astype(np.float32))
    pixels += 3 * rng.standard_normal((SIZE, SIZE, 1), dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _distractors(image: Image.Image, rng: np.random.Generator) -> None:
    """Grey specks and short strokes that no question asks about."""
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 11))):
        x, y = rng.uniform(0, SIZE, size=2)
        grey = int(rng.integers(120, 180))
        length, turn = rng.uniform(4, 14), rng.uniform(0, 2 * math.pi)
        end = (x + length * math.cos(turn), y + length * math.sin(turn))
        pen.line([(x, y), end], fill=(grey, grey, grey), width=int(rng.integers(1, 4)))


@lru_cache(maxsize=64)
def _mask(item: Item) -> Image.Image:
    """Antialiased alpha of one object, cropped to its tile."""
    side = int(math.ceil(item.width * 1.3))
    big = side * _SUPERSAMPLE
    tile = Image.new("L", (big, big))
    pen = ImageDraw.Draw(tile)
    middle, radius = big / 2, item.width * _SUPERSAMPLE / 2
    if item.kind in SHAPES:
        _draw_shape(pen, item.kind, middle, radius)
    else:
        pen.text((middle, middle), item.kind, fill=255, font=_font(round(radius * 2.3)), anchor="mm", stroke_width=2)
    return tile.rotate(item.angle, resample=Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.BOX)


def _draw_shape(pen: ImageDraw.ImageDraw, kind: str, middle: float, radius: float) -> None:
    def around(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(middle + radius * x, middle + radius * y) for x, y in points]

    if kind in ("circle", "ring"):
        pen.ellipse(around((-1, -1), (1, 1)), fill=255)
        if kind == "ring":
            pen.ellipse(around((-0.55, -0.55), (0.55, 0.55)), fill=0)
    elif kind == "square":
        pen.rectangle(around((-0.85, -0.85), (0.85, 0.85)), fill=255)
    elif kind == "triangle":
        pen.polygon(around((0, -0.95), (1, 0.85), (-1, 0.85)), fill=255)
    elif kind == "diamond":
        pen.polygon(around((0, -1.05), (0.8, 0), (0, 1.05), (-0.8, 0)), fill=255)
    elif kind == "cross":
        pen.rectangle(around((-1, -0.34), (1, 0.34)), fill=255)
        pen.rectangle(around((-0.34, -1), (0.34, 1)), fill=255)
    elif kind == "star":
        turns = [math.pi * (step / 5 - 0.5) for step in range(10)]
        lengths = [1.1 if step % 2 == 0 else 0.46 for step in range(10)]
        pen.polygon(around(*[(r * math.cos(t), r * math.sin(t)) for r, t in zip(lengths, turns)]), fill=255)
    elif kind == "heart":
        pen.ellipse(around((-1, -0.9), (0.06, 0.16)), fill=255)
        pen.ellipse(around((-0.06, -0.9), (1, 0.16)), fill=255)
        pen.polygon(around((-0.94, -0.12), (0.94, -0.12), (0, 1)), fill=255)


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

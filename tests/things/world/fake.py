"""A small world for tests: real names of things in seven kinds, each a plain shape in a colour of its own, on painted grounds."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from llava.things.pictures import Thing
from llava.things.world import World

NAMES = {
    "animal": (
        "crow",
        "owl",
        "frog",
        "otter",
        "chicken",
        "brown hen",
        "fox",
        "horse",
        "lion",
        "sea lion",
        "pink flamingo",
    ),
    "food": ("orange", "carrot", "strawberry", "yellow lemon", "pear", "mushroom"),
    "household item": ("teapot", "toolbox", "hammer", "key"),
    "vehicle": ("fire truck", "green bus", "airplane", "train sign"),
    "plant": ("rose", "palm tree", "daffodil"),
    "instrument": ("violin", "trumpet", "drum kit"),
    "sports item": ("basketball", "tennis racket"),
}


def fake_world(folder: Path) -> World:
    """The world, its pictures in ``folder``."""
    things = []
    for kind, names in NAMES.items():
        for name in names:
            number = len(things)
            picture = Image.new("RGBA", (50 + number, 80 - number))
            colour = (7 * number, 255 - 5 * number, 40 * number % 256, 255)
            ImageDraw.Draw(picture).ellipse((2, 2, 47 + number, 77 - number), fill=colour)
            picture.save(folder / f"{name}.png")
            things.append(Thing(name, kind, folder / f"{name}.png"))
    return World(tuple(things), {})

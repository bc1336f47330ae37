"""Photographs of named things, cut out with transparency: the stamps that Debian packages for Tux Paint (GPL-2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .debian import DebianPackage, fetch_package

STAMPS = DebianPackage(
    address="pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    size=160_880_444,
    folder="usr/share/tuxpaint/stamps",
    kinds=(".png", ".txt"),
    licence="GPL-2",
)
# Folders of the package, and the kind of what is in them
KINDS = {
    "animals": "animal",
    "food": "food",
    "household": "household item",
    "clothes": "piece of clothing",
    "vehicles": "vehicle",
    "plants": "plant",
    "hobbies/music": "instrument",
    "sports": "sports item",
}
_NAME = re.compile(r"An? ([A-Za-z][A-Za-z'-]*(?: [A-Za-z][A-Za-z'-]*)?)[.!]?")


@dataclass(frozen=True)
class Thing:
    """A thing that the pictures show: its name in one or two words, its kind, and the file of its first picture."""

    name: str
    kind: str
    file: Path


def fetch_things(cache: Path, mirror: str) -> list[Thing]:
    """The things of the package, which is fetched from a Debian mirror and unpacked into the cache folder once.

    Raises as ``download`` does, and ValueError for a package that holds no pictures.
    """
    folder = fetch_package(STAMPS, cache, mirror)
    things = find_things(folder)
    if not things:
        raise ValueError(f"{folder} holds no pictures of things; remove it, and it is fetched again")
    return things


def find_things(folder: Path) -> list[Thing]:
    """The things below a folder of stamps: pictures beside a text whose first line says "A NAME." and no more.

    A name has the picture that comes first; order and choice are the same everywhere.
    """
    things: dict[str, Thing] = {}
    for place, kind in KINDS.items():
        for text in sorted((folder / place).rglob("*.txt")):
            with open(text, encoding="utf-8", errors="replace") as lines:
                said = _NAME.fullmatch(lines.readline().strip())
            picture = text.with_suffix(".png")
            if said and picture.is_file():
                name = said[1].lower()
                things.setdefault(name, Thing(name, kind, picture))
    return list(things.values())

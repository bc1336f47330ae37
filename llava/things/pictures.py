"""Photographs of named things, cut out with transparency: the stamps that Debian packages for Tux Paint (GPL-2)."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from .download import check_room, download, room_named

PACKAGE = "tuxpaint-stamps-default_2022.06.04-1_all.deb"
ADDRESS = f"pool/main/t/tuxpaint-stamps/{PACKAGE}"
SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
SIZE = 160_880_444
STAMPS = Path("usr/share/tuxpaint/stamps")
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
    folder = cache / PACKAGE.removesuffix("_all.deb")
    if not folder.is_dir():
        package = download(f"{mirror.rstrip('/')}/{ADDRESS}", cache / PACKAGE, SHA256, SIZE)
        check_room(cache, 2 * SIZE, PACKAGE)
        partial = cache / f".{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with room_named(cache), package_content(package) as content:
            for entry in content:
                if entry.isfile() and entry.name.endswith((".png", ".txt", "/copyright")):
                    content.extract(entry, partial, filter="data")
        partial.rename(folder)
    things = find_things(folder / STAMPS)
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


@contextmanager
def package_content(package: Path) -> Iterator[tarfile.TarFile]:
    """What a Debian package installs, to be read once from front to back.

    The package is an ``ar`` archive: entries of 60 bytes of header (name 16, ..., size 10 at 48) and content, padded to even.
    Raises ValueError naming the file where there is no such content.
    """
    with open(package, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError(f"{package} is no Debian package; remove it, and it is fetched again")
        while header := file.read(60):
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                how = {"data.tar.xz": "r|xz", "data.tar.gz": "r|gz", "data.tar": "r|"}.get(name)
                if how is None:
                    raise ValueError(
                        f"{package} is compressed as {name}, which Python does not read; unpack it by dpkg -x"
                    )
                with tarfile.open(fileobj=cast(IO[bytes], file), mode=how) as content:  # type: ignore[call-overload]
                    yield content
                return
            file.seek(size + size % 2, 1)
    raise ValueError(f"{package} holds no data.tar; remove it, and it is fetched again")

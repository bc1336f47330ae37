"""Debian packages as a source of pictures: fetched from a mirror, checked, and unpacked into a cache folder once."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from llava.folders import new_folder

from .download import check_room, download, room_named


@dataclass(frozen=True)
class DebianPackage:
    """A package that every mirror has.

    address: below the mirror. sha256, size: checksum and bytes. folder: where its pictures lie once it is unpacked. kinds: endings of
    the files that are kept. licence: as the package states it.
    """

    address: str
    sha256: str
    size: int
    folder: str
    kinds: tuple[str, ...]
    licence: str

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]


def fetch_package(package: DebianPackage, cache: Path, mirror: str) -> Path:
    """The folder of a package's pictures, fetched and unpacked into the cache folder unless it lies there.

    Raises as ``download`` does.
    """
    folder = cache / package.name.removesuffix("_all.deb")
    if not folder.is_dir():
        file = download(f"{mirror.rstrip('/')}/{package.address}", cache / package.name, package.sha256, package.size)
        check_room(cache, 2 * package.size, package.name)
        with new_folder(folder) as partial, room_named(cache), package_content(file) as content:
            # Python before 3.11.4 has no filters; the file is the one whose SHA-256 is known.
            content.extraction_filter = getattr(tarfile, "data_filter", None)
            for entry in content:
                if entry.isfile() and entry.name.endswith((*package.kinds, "/copyright")):
                    content.extract(entry, partial)
    return folder / package.folder


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

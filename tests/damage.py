"""Damage for the tests: hypothesis strategies that change a part of a data file, and pictures that Pillow refuses."""

from __future__ import annotations

import copy
import struct
import zlib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

FUZZ = settings(
    max_examples=60, deadline=5000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = st.sampled_from(
    [None, True, -1, 1.5, 10**400, "", "\0", "../..", "a" * 300, "<image>", [], [None], {}, {"a": 1}, [[]] * 3]
)


@st.composite
def other_value(draw: st.DrawFn, content: Any) -> Any:
    """A copy of a nested value of which one part is another value, is gone, or is there twice."""
    if not isinstance(content, dict | list) or not content or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    content = copy.copy(content)
    place = draw(st.sampled_from(list(content) if isinstance(content, dict) else range(len(content))))
    change = draw(st.sampled_from(["inside", "inside", "inside", "gone", "twice"]))
    if change == "inside":
        content[place] = draw(other_value(content[place]))
    elif change == "gone":
        del content[place]
    elif isinstance(content, list):
        content.append(content[place])
    return content


@st.composite
def other_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with a cut, or with something put in that is hard to read."""
    place = draw(st.integers(0, len(content)))
    put_in = draw(
        st.sampled_from(
            [b"", b"\xff", b"\xef\xbb\xbf", "\u2028".encode(), b'"\\ud83d"', b"[" * 10**5, b"\r", b"\n", b"\t"]
        )
    )
    return content[:place] + put_in + content[place if draw(st.booleans()) else len(content) :]


def bomb(file: Path, side: int = 20000) -> None:
    """A PNG whose header says that it is `side` pixels wide and high."""
    Image.new("RGB", (4, 4)).save(file, "PNG")
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)


def long_text(file: Path) -> None:
    """A PNG with a comment that is longer than Pillow reads."""
    about = PngImagePlugin.PngInfo()
    about.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=about)

"""Pictures in one normal form, RGB with 8 bits, from files, tar shards, addresses, base64 text, or PIL pictures of any mode.

- Grey of 16 or 32 bits and floating point is scaled to 0 ... 255 (`to_rgb` says how); Pillow's own conversion clips it.
- What is transparent is shown on white, as viewers show it; Pillow's own conversion shows the colour beneath.
- A file's EXIF orientation is applied, so that "left" and "above" are what a viewer shows.

Every other picture is what Pillow's ``convert("RGB")`` gives, bit for bit. LLaVA uses that conversion alone, so that its
results on the pictures named above differ.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import logging
import struct
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from llava.shards import find_member, open_member, split_address
from llava.shipped import shipped

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # (width, height) in pixels, as PIL counts

LARGEST_DOWNLOAD = 64 * 2**20  # bytes
LONGEST_DOWNLOAD = 60.0  # seconds
_CHUNK = 2**16

# Pillow raises any of these for a damaged or hostile file, depending on its format.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    AttributeError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_RANGES = (1.0, 255.0, 65535.0)  # what the values of floating point grey may reach


def load_image(source: str | Path) -> Image.Image:
    """The picture in a file, in tar shards (`llava.shards`) or behind an http(s) address, in RGB (`to_rgb`), upright as EXIF says.

    Raises FileNotFoundError for a missing one, and ValueError for anything that is not a readable picture: damaged, beyond
    Pillow's limit of pixels, or an address that does not answer with at most `LARGEST_DOWNLOAD` bytes within
    `LONGEST_DOWNLOAD` seconds. Both name the source.
    """
    source = str(source)
    try:
        if source.lower().startswith(("http://", "https://")):
            return _decoded(BytesIO(download(source)))
        with _opened(source) as file:
            return _decoded(file)
    except FileNotFoundError:
        raise
    except (*_DAMAGE, http.client.HTTPException) as error:
        raise _unreadable(repr(source), error) from error


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """The picture that base64 text holds, as `load_image` gives one. Raises ValueError for anything else."""
    try:
        return _decoded(BytesIO(base64.b64decode(image)))
    except (*_DAMAGE, binascii.Error) as error:
        raise _unreadable("in base64 text", error) from error


def load_image_from_bytes(content: bytes) -> Image.Image:
    """The picture that the bytes of a file hold, as `load_image` gives one. Raises ValueError for anything else."""
    try:
        return _decoded(BytesIO(content))
    except _DAMAGE as error:
        raise _unreadable("in bytes", error) from error


def picture_size(file: str | Path | IO[bytes]) -> Size:
    """(width, height) of the picture that `load_image` gives, from the header of a file or stream (a TIFF is decoded).

    Raises as `load_image` does, but damage after the header is not seen.
    """
    try:
        with (
            _opened(file) if isinstance(file, str | Path) else nullcontext(file) as stream,
            Image.open(stream) as image,
        ):
            if image.format == "TIFF":  # Pillow's versions differ in when they turn one
                return _upright(image).size
            # For a PNG without EXIF data in its header, Pillow would decode the whole picture in search of some.
            known = image.format != "PNG" or "exif" in image.info
            turned = known and _orientation(image) in _TURNED
            return (image.height, image.width) if turned else (image.width, image.height)
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        source = repr(str(file)) if isinstance(file, str | Path) else "in bytes"
        raise _unreadable(source, error) from error


def require_picture(file: str | Path) -> None:
    """Raises FileNotFoundError naming a picture that is no file and in none of the shards it is looked for in."""
    if (address := split_address(file)) is not None:
        find_member(*address)
    elif not Path(file).is_file():
        raise FileNotFoundError(f"image file {str(file)!r} does not exist")


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL picture of any mode as RGB with 8 bits; an opaque RGB picture comes back as it is.

    Grey of 16 bits: 0 ... 65535 becomes 0 ... 255. Grey of 32 bits or floating point has no range of its own: it is scaled
    from the first of [0, 1] (floating point only), [0, 255] and [0, 65535] that holds all its values, else from its smallest
    to its largest value; infinite values and NaN become black. Transparent pixels are laid on white.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(layer.convert("RGB"), mask=layer.getchannel("A"))
    return canvas


def _grey(image: Image.Image) -> Image.Image:
    """A picture of mode I;16, I or F in mode L."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        low, high = 0.0, _RANGES[-1]
    else:
        values = values.astype(np.float32)
        finite = np.isfinite(values)
        low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
        ranges = [top for top in _RANGES[image.mode == "I" :] if 0 <= low and high <= top]
        low, high = (0.0, ranges[0]) if ranges else (low, high)
        values = np.where(finite, values, low)
    scaled = (values - np.float32(low)) * np.float32(255 / ((high - low) or 1.0))
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


@contextmanager
def _opened(source: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a picture's file, or of its place in shards. Raises FileNotFoundError naming one that is not there."""
    if (address := split_address(source)) is not None:
        with open_member(*address) as member:
            yield member
        return
    try:
        file = open(shipped(source), "rb")  # noqa: SIM115  closed below, where an error is the reader's
    except FileNotFoundError:
        raise FileNotFoundError(f"image file {str(source)!r} does not exist") from None
    with file:
        yield file


def _decoded(stream: IO[bytes]) -> Image.Image:
    """The picture of a stream, wholly read, upright and in RGB."""
    with Image.open(stream) as image:
        picture = to_rgb(_upright(image))
        return picture.copy() if picture is image else picture


def _upright(image: Image.Image) -> Image.Image:
    """A picture read wholly and turned as its EXIF data say; as it is where they say nothing or are damaged."""
    image.load()
    if _orientation(image) in (None, 1):
        return image
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE as error:
        logger.warning("damaged EXIF data are ignored: %s", error)
        return image


def _orientation(image: Image.Image) -> int | None:
    """The orientation that a picture's EXIF data name; None without one, or where the data are damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE as error:
        logger.warning("damaged EXIF data are ignored: %s", error)
        return None


def _unreadable(source: str, error: BaseException) -> ValueError:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "it is no picture of a format that Pillow knows"
    return ValueError(f"image {source} cannot be read: {reason}")


def download(address: str, largest: int | None = None) -> bytes:
    """What an address answers with: at most ``largest`` bytes (None: `LARGEST_DOWNLOAD`) within `LONGEST_DOWNLOAD` seconds.

    Raises ValueError beyond these limits, and what urllib raises.
    """
    largest = LARGEST_DOWNLOAD if largest is None else largest
    end = time.monotonic() + LONGEST_DOWNLOAD
    content = bytearray()
    with urllib.request.urlopen(address, timeout=LONGEST_DOWNLOAD) as response:
        while part := response.read1(_CHUNK):
            content += part
            if len(content) > largest:
                raise ValueError(f"it is larger than {largest // 2**20} MiB; download it and give the file")
            if time.monotonic() > end:
                raise ValueError(f"it takes longer than {LONGEST_DOWNLOAD:g} seconds; download it and give the file")
        if response.length:
            raise ValueError(f"the connection ended {response.length} bytes before the end")
        kind = response.headers.get_content_type()
    if kind == "text/html":
        raise ValueError("the server answers with a page of HTML, not with a picture")
    return bytes(content)

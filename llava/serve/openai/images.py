"""Pictures of a request, from base64 and, where the operator allows it, from http(s): never from a file."""

from __future__ import annotations

import base64
import binascii
import http.client
import re
from io import BytesIO

from PIL import Image

from llava.pictures import download, load_image_from_bytes, picture_size

from .errors import ApiError
from .limits import MEGABYTE, Limits

_DATA = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def read_image(url: str, limits: Limits) -> Image.Image:
    """The picture of an ``image_url``, in RGB. Raises ApiError for what is not allowed, too large, or no picture."""
    return open_picture(_content(url, limits), limits)


def open_picture(content: bytes, limits: Limits) -> Image.Image:
    """The picture that the bytes of a file hold, in RGB. Raises ApiError for what is too large, or no picture."""
    if len(content) > limits.image_bytes:
        raise too_large(limits)
    try:
        width, height = picture_size(BytesIO(content))
        if width * height > limits.image_pixels:
            raise ApiError(
                400,
                f"a picture of {width} x {height} pixels exceeds the server's {limits.image_pixels} pixels; make it smaller",
                "messages",
                "image_too_large",
            )
        return load_image_from_bytes(content)
    except ValueError as error:
        raise ApiError(400, f"{error}; send a PNG or JPEG", "messages", "invalid_image") from None


def _content(url: str, limits: Limits) -> bytes:
    scheme = url.partition(":")[0].lower()
    if opening := _DATA.match(url):
        if len(url) - opening.end() > limits.image_bytes * 4 // 3 + 4:
            raise too_large(limits)
        try:
            return base64.b64decode(url[opening.end() :], validate=True)
        except binascii.Error as error:
            raise ApiError(400, f"the picture is no base64: {error}", "messages", "invalid_image") from None
    if scheme in ("http", "https"):
        if not limits.image_urls:
            raise ApiError(
                400,
                "this server fetches no addresses; send the picture as data:image/png;base64,...",
                "messages",
                "invalid_image_url",
            )
        try:
            return download(url, limits.image_bytes)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ApiError(400, f"the picture cannot be fetched: {error}", "messages", "invalid_image_url") from None
    raise ApiError(
        400,
        f"an image_url that begins with {url[:20]!r} is not supported; send data:image/png;base64,...",
        "messages",
        "invalid_image_url",
    )


def too_large(limits: Limits) -> ApiError:
    """The refusal of a picture's file that has too many bytes."""
    return ApiError(
        413,
        f"a picture exceeds the server's {limits.image_bytes / MEGABYTE:g} MiB; make it smaller",
        "messages",
        "image_too_large",
    )

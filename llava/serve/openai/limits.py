"""What the server accepts from anybody: sizes, numbers, and where pictures may come from."""

from __future__ import annotations

from dataclasses import dataclass

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of one request and of all together.

    image_bytes: of a picture's file. image_pixels: of a decoded picture. images: of a request. max_tokens: of an answer.
    text_bytes: of everything in a request that is not a picture. batch: prompts in one ``generate``. open_requests:
    requests at once, waiting or being answered. upload_seconds: in which a request has to arrive. image_urls: fetch
    http(s) addresses, from the server's own network. Raises ValueError for a number below 1.
    """

    image_bytes: int = 20 * MEGABYTE
    image_pixels: int = 50_000_000
    images: int = 8
    max_tokens: int = 1024
    text_bytes: int = MEGABYTE
    batch: int = 8
    open_requests: int = 64
    upload_seconds: int = 60
    image_urls: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1 and name != "image_urls":
                raise ValueError(f"{name}={value} must be at least 1")

    @property
    def body_bytes(self) -> int:
        """Of the body of a request, in which pictures are base64."""
        return self.text_bytes + self.images * (self.image_bytes * 4 // 3 + 100)

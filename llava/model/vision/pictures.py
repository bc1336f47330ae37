"""The images given to a model, in whatever form, as one list; and which of them belong to which prompt.

Shapes: n images, H x W pixels, N features of width V.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .seen_image import SeenImage

Images = Tensor | Sequence[Tensor]
Features = Sequence[Tensor] | Sequence[SeenImage]


@dataclass
class Picture:
    """One image given to the model: ``data`` are pixels (crops, 3, H, W) or, ``encoded``, raw features (crops, N, V).

    ``seen``: the features with what the tower can tell besides, where they were given so.
    """

    data: Tensor
    encoded: bool
    plain: bool  # one view of the image, nothing to merge
    size: tuple[int, int] | None
    given_seed: int | None = None
    seen: SeenImage | None = None

    @cached_property
    def seed(self) -> int:
        """A number that depends on the image alone: as given, or a checksum of its data."""
        return checksum(self.data) if self.given_seed is None else self.given_seed

    @property
    def crops(self) -> int:
        return len(self.data)

    @property
    def is_dummy(self) -> bool:
        """All zeros: what training scripts give a row without an image."""
        return not self.data.any()


def as_pictures(
    images: Images | None,
    raw: Features | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Picture]:
    """Images or raw features as a list; raises ValueError for both at once, for other shapes, and for lengths that differ."""
    if images is not None and raw is not None:
        raise ValueError("both images and raw_vision_features are given; give one of them")
    views = images if raw is None else raw
    if views is None:
        return []
    if sizes is not None and len(sizes) != len(views):
        raise ValueError(f"{len(sizes)} image_sizes for {len(views)} images; give (width, height) of every image")
    if seeds is not None and len(seeds) != len(views):
        raise ValueError(f"{len(seeds)} image_seeds for {len(views)} images; give one of every image")
    name, one_crop = ("images", 3) if raw is None else ("raw_vision_features", 2)
    # A stack (n, 3, H, W) is one view each; in a list such an image may still be merged.
    stacked = isinstance(views, Tensor) and views.ndim == one_crop + 1
    pictures = []
    for i, view in enumerate(views):
        seen = view if isinstance(view, SeenImage) else None
        size = None if sizes is None else (int(sizes[i][0]), int(sizes[i][1]))
        data = view if isinstance(view, Tensor) else view.features
        if data.ndim not in (one_crop, one_crop + 1):
            raise ValueError(
                f"{name}[{i}] has shape {tuple(data.shape)}, which is neither one view nor a stack of crops"
            )
        plain = stacked or (raw is not None and data.ndim == one_crop) if seen is None else seen.plain
        data = data.unsqueeze(0) if data.ndim == one_crop else data
        pictures.append(Picture(data, raw is not None, plain, size, None if seeds is None else seeds[i], seen))
    return pictures


def assign(image_tokens: list[int], pictures: list[Picture]) -> list[list[Picture]]:
    """Which pictures belong to each row, given how many image tokens each row has.

    A row of text alone needs no picture; one of zeros, LLaVA's dummy, is understood. Raises ValueError for any other
    number of pictures, and for a real picture in the place of a dummy: its ``<image>`` was forgotten in the prompt.
    """
    total, textual = sum(image_tokens), sum(count == 0 for count in image_tokens)
    supply = iter(pictures)
    if len(pictures) == total:
        return [[next(supply) for _ in range(count)] for count in image_tokens]
    cure = "give every <image> of a prompt exactly one image and every image one <image>"
    if len(pictures) == total + textual:
        rows = [[next(supply) for _ in range(max(count, 1))] for count in image_tokens]
        textual_rows = [number for number, count in enumerate(image_tokens) if not count]
        forgotten = [number for number in textual_rows if not rows[number][0].is_dummy]
        if not forgotten:
            return [row if count else [] for row, count in zip(rows, image_tokens, strict=True)]
        cure = f"row {forgotten[0]} has no <image>, but the image in its place is not all zeros, LLaVA's dummy; {cure}"
    raise ValueError(f"{total} image tokens in input_ids (per row {image_tokens}) but {len(pictures)} images; {cure}")


def checksum(tensor: Tensor) -> int:
    """A checksum of a tensor's bytes: equal data, equal number, on every machine and in every batch."""
    return zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())

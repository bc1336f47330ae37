"""What the tower saw of the last pictures: clients send the pictures of a dialogue with every turn, and the tower need not see them again."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from llava.model.vision.seen import tower_share
from llava.model.vision.seen_image import SeenImage
from llava.reduction import Stage


class PictureCache:
    """What a LLaVA's tower saw of pictures, by their pixels and by what a plan asks of the tower.

    most_bytes: of all that is kept between calls, on the model's device; what was longest not asked for goes first. 0 keeps
    nothing, and a picture that several prompts of one call are about still passes the tower once. For one thread at a time.
    """

    def __init__(self, model: Any, most_bytes: int = 0):
        self.model, self.most_bytes = model, most_bytes
        self._kept: dict[Hashable, SeenImage] = {}  # the longest unused first

    def see(self, images: Sequence[Tensor], plan: list[Stage]) -> list[SeenImage]:
        """Each picture, (3, H, W) or (crops, 3, H, W), as ``encode_seen`` sees it; those not kept pass the tower in one call."""
        share = tower_share(plan)
        keys = [(share, tuple(image.shape), _digest(image)) for image in images]
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in self._kept}
        seen = {key: self._kept.pop(key) for key in dict.fromkeys(keys) if key not in fresh}
        if fresh:
            encoded = self.model.encode_seen(together(list(fresh.values())), plan)
            seen |= dict(zip(fresh, encoded, strict=True))
        if self.most_bytes:
            self._kept |= {key: image.copied() if key in fresh else image for key, image in seen.items()}
            self._make_room()
        return [seen[key] for key in keys]

    def _make_room(self) -> None:
        total = sum(image.nbytes for image in self._kept.values())
        while total > self.most_bytes:
            total -= self._kept.pop(next(iter(self._kept))).nbytes


def together(images: list[Tensor]) -> Tensor | list[Tensor]:
    """Single views (3, H, W) as one stack, which says that there is nothing to merge; stacks of crops as they are."""
    return torch.stack(images) if all(image.dim() == 3 for image in images) else images


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.contiguous().view(torch.uint8).numpy().tobytes()).digest()

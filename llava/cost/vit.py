"""Plain vision transformers: square crops, full attention, one width. CLIP, SigLIP, InternViT and those like them."""

from __future__ import annotations

from typing import Any

from llava.reduction.cost import layer_flops, tower_flops

from .families.base import Grid, Picture, linear

PREFIX = {  # rows before the patches, the class token, by the model_type of a tower
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
    "idefics3_vision": 0,
    "smolvlm_vision": 0,
    "internvl_vision": 1,
}


def side(size: Any) -> int:
    """One side of a size, which configs write as a number or as two equal ones."""
    if isinstance(size, int):
        return size
    first, *rest = size
    if any(other != first for other in rest):
        raise ValueError(f"size={list(size)} of the tower is not square; only square towers can be counted")
    return first


def prefix(vision: Any) -> int:
    """How many rows stand before the patches. Raises ValueError for a tower that is not known."""
    if vision.model_type not in PREFIX:
        raise ValueError(f"the tower {vision.model_type!r} cannot be counted; these can: {', '.join(PREFIX)}")
    return PREFIX[vision.model_type]


def crop_grid(vision: Any) -> Grid:
    """The patches of one crop."""
    patches = side(vision.image_size) // side(vision.patch_size)
    return patches, patches


def vit_flops(vision: Any, picture: Picture) -> float:
    """Every image of a picture through all layers, and through the attention that pools them where the tower has it."""
    first = prefix(vision)
    total = 0.0
    for down, across in picture.grids:
        rows = down * across + first
        total += tower_flops(_sized(vision), 1, [rows] * vision.num_hidden_layers, first) + _pooling(vision, rows)
    return total


def _pooling(vision: Any, rows: int) -> float:
    """SigLIP's head: one query attends to all rows, then an FFN. Its config says where there is none."""
    if vision.model_type != "siglip_vision_model" or not getattr(vision, "vision_use_head", True):
        return 0.0
    d = vision.hidden_size
    return layer_flops(1, d, d, vision.intermediate_size, 2, rows) + linear(rows - 1, d, d) + linear(rows - 1, d, d)


class _sized:  # noqa: N801  a view of a config
    """The four sizes of a tower as whole numbers."""

    def __init__(self, vision: Any):
        self.hidden_size, self.intermediate_size = vision.hidden_size, vision.intermediate_size
        self.patch_size = side(vision.patch_size)

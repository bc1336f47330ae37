"""Plain vision transformers: square crops, full attention, one width. CLIP, SigLIP, InternViT and those like them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from llava.model.multimodal_encoder.families import tower_family
from llava.reduction.cost import layer_flops, tower_flops

from .families.base import Grid, Picture, linear, side

HOSTS_OWN = {"idefics3_vision": 0, "smolvlm_vision": 0, "internvl_vision": 1}  # rows before the patches, by model_type


def prefix(vision: Any) -> int:
    """How many rows stand before the patches. Raises ValueError for a tower that is not known."""
    if vision.model_type in HOSTS_OWN:
        return HOSTS_OWN[vision.model_type]
    family = tower_family(vision.model_type)
    if family is None or family.reads_any_size:
        raise ValueError(f"the tower {vision.model_type!r} cannot be counted; CLIP, SigLIP and those of the hosts can")
    return family.front(vision)


def has_class_token(vision: Any) -> bool:
    """Whether one of the rows before the patches is a class token; False where the tower is not known."""
    family = tower_family(vision.model_type)
    return HOSTS_OWN.get(vision.model_type, 0) > 0 if family is None else family.has_class_token


def crop_grid(vision: Any) -> Grid:
    """The patches of one crop."""
    patches = side(vision.image_size) // side(vision.patch_size)
    return patches, patches


def vit_flops(vision: Any, picture: Picture) -> float:
    """Every image of a picture through all layers, and through the attention that pools them where the tower has it."""
    first, patch, total = prefix(vision), side(vision.patch_size), 0.0
    sizes = SimpleNamespace(
        hidden_size=vision.hidden_size, intermediate_size=vision.intermediate_size, patch_size=patch
    )
    for down, across in picture.grids:
        rows = down * across + first
        total += tower_flops(sizes, 1, [rows] * vision.num_hidden_layers, first) + _pooling(vision, rows)
    return total


def _pooling(vision: Any, rows: int) -> float:
    """SigLIP's head: one query attends to all rows, then an FFN. Its config says where there is none."""
    if vision.model_type != "siglip_vision_model" or not getattr(vision, "vision_use_head", True):
        return 0.0
    d = vision.hidden_size
    return (
        layer_flops(1, d, d, 2 * d * vision.intermediate_size, rows) + linear(rows - 1, d, d) + linear(rows - 1, d, d)
    )

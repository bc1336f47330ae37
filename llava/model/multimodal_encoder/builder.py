"""The vision tower a config asks for."""

from __future__ import annotations

from typing import Any

from llava.model.multimodal_encoder.scaled_tower import ScaledTower
from llava.model.multimodal_encoder.tower import VisionTower


def build_vision_tower(vision_tower_cfg: Any, **kwargs: Any) -> VisionTower:
    """A VisionTower from a config's `mm_vision_tower` (or `vision_tower`), a ScaledTower where its `s2` is true.

    kwargs: `delay_load`, see VisionTower. Raises ValueError for a config that names no tower, and what these raise.
    """
    name = getattr(vision_tower_cfg, "mm_vision_tower", None) or getattr(vision_tower_cfg, "vision_tower", None)
    if not name:
        raise ValueError("the config names no vision tower; set mm_vision_tower to a hub name or a folder")
    kind = ScaledTower if getattr(vision_tower_cfg, "s2", False) else VisionTower
    return kind(name, args=vision_tower_cfg, **kwargs)

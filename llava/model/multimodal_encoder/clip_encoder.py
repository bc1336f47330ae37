"""LLaVA's names for vision towers, from when CLIP was the only one; `tower` and `scaled_tower` have the classes."""

from __future__ import annotations

from llava.model.multimodal_encoder.scaled_tower import ScaledTower
from llava.model.multimodal_encoder.tower import VisionTower

CLIPVisionTower = VisionTower
CLIPVisionTowerS2 = ScaledTower

__all__ = ["CLIPVisionTower", "CLIPVisionTowerS2"]

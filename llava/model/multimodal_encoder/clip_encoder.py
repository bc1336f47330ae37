"""LLaVA's name for a vision tower, from when CLIP was the only one; `tower` has the class, `families` what differs."""

from __future__ import annotations

from llava.absent import absent_names
from llava.model.multimodal_encoder.tower import VisionTower

CLIPVisionTower = VisionTower

__getattr__ = absent_names(__name__)
__all__ = ["CLIPVisionTower"]

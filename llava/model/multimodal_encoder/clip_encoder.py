"""LLaVA's name for a vision tower, from when CLIP was the only one; `tower` has the class, `families` what differs."""

from __future__ import annotations

from llava.model.multimodal_encoder.tower import VisionTower

CLIPVisionTower = VisionTower

__all__ = ["CLIPVisionTower"]

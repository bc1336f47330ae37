"""LLaVA-OneVision: LLaVA-NeXT's crops, made smaller where they are more than ``anyres_max_9`` allows."""

from __future__ import annotations

import math

from ..vit import crop_grid
from .base import Grid, Picture
from .llava_next import LlavaNext


class LlavaOnevision(LlavaNext):
    """As LLaVA-NeXT; each of several pictures in a prompt is one view with one newline token."""

    model_types = ("llava_onevision",)

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        if alone:
            return super().picture(height, width)
        down, across = crop_grid(self.vision)
        return Picture(down * across + self.class_tokens, 1, ((down, across),))

    def pooled(self, lines: Grid) -> Grid:
        most = int(self.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(lines[0] * lines[1] / (most * crop_grid(self.vision)[0] ** 2))
        return lines if ratio <= 1.1 else (int(lines[0] // ratio), int(lines[1] // ratio))

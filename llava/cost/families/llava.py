"""LLaVA-1.5 in transformers' layout: one crop, one token per patch."""

from __future__ import annotations

from llava.reduction import Stage

from ..vit import crop_grid, prefix, vit_flops
from .base import Family, Picture, linear


class Llava(Family):
    """Every picture is resized to one square; an MLP of two layers."""

    model_types = ("llava",)

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        down, across = crop_grid(self.vision)
        return Picture(down * across + self.class_tokens, 0, ((down, across),))

    @property
    def class_tokens(self) -> int:
        """The tower's class token enters the language model only where the config says "full"."""
        return prefix(self.vision) if self.config.vision_feature_select_strategy == "full" else 0

    def tower_flops(self, picture: Picture, plan: list[Stage]) -> float:
        return vit_flops(self.vision, picture)

    def projector_flops(self, picture: Picture, plan: list[Stage]) -> float:
        rows = picture.patches + len(picture.grids) * self.class_tokens
        layers = self.config.vision_feature_layer
        seen = self.vision.hidden_size * (1 if isinstance(layers, int) else len(layers))
        return linear(rows, seen, self.text.hidden_size, self.text.hidden_size)

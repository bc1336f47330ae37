"""What a family of models says about itself: what a picture becomes, and what its tower and its projector compute.

Sizes are (height, width), as in transformers' image processors. FLOPs count a multiply-add as two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from llava.reduction import Stage, did_you_mean

Grid = tuple[int, int]

FAMILIES: dict[str, type[Family]] = {}  # by the model_type of a config


@dataclass(frozen=True)
class Picture:
    """A picture of one size as a model meets it.

    tokens: visual tokens that enter the language model. separators: what stands around and between them in the prompt (line
    ends, markers), which is text. grids: the patches (down, across) of each image that passes the tower. crops: equal parts
    among which a stage before the language model divides its budget.
    """

    tokens: int
    separators: int
    grids: tuple[Grid, ...]
    crops: int = 1

    @property
    def patches(self) -> int:
        """All patches of its images."""
        return sum(map(prod, self.grids))


class Family:
    """One family of vision-language models, opened on a config.

    Subclass, name the ``model_types`` of its configs, write ``picture``, ``tower_flops`` and ``projector_flops``, and put
    the file into this folder. ``settings``: what its image processor can be told, with the usual values; a checkpoint's
    ``preprocessor_config.json`` and ``--processor`` change them. ``shapes_tower``: whether stages at the pixels and in the
    tower can be run, and counted.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[dict[str, int]] = {}
    shapes_tower: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        for model_type in cls.model_types:
            FAMILIES[model_type] = cls

    def __init__(self, config: Any, processor: Mapping[str, Any]):
        self.config, self.text, self.vision = config, config.text_config, config.vision_config
        known = {**self.settings, **self.read_processor(processor)}
        for name, value in known.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"processor {name}={value!r} must be a whole number of at least 1")
        self.processor: dict[str, int] = known

    @classmethod
    def read_processor(cls, processor: Mapping[str, Any]) -> dict[str, int]:
        """The settings that a ``preprocessor_config.json`` holds."""
        return {name: processor[name] for name in cls.settings if processor.get(name) is not None}

    @classmethod
    def check_settings(cls, names: Mapping[str, int]) -> None:
        """Raises ValueError for a setting that this family's image processor does not have."""
        for name in names:
            if name not in cls.settings:
                allowed = f"it knows {', '.join(cls.settings)}" if cls.settings else "it has none that changes a count"
                raise ValueError(f"--processor {name}: {allowed}{did_you_mean(name, cls.settings)}")

    @property
    def vision_width(self) -> int:
        """Width of what a selector reads from the tower."""
        return self.vision.hidden_size

    @property
    def features_width(self) -> int:
        """Width of the features that the tower hands on."""
        return self.vision_width

    @property
    def passes(self) -> int:
        """How many times the tower runs for each image of a picture."""
        return 1

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        """What a picture of this size becomes; ``alone``: it is the only one of its prompt."""
        raise NotImplementedError

    def under(self, picture: Picture, plan: list[Stage]) -> Picture:
        """The same picture where a plan changes how its tokens are laid out."""
        return picture

    def tower_flops(self, picture: Picture, plan: list[Stage]) -> float:
        """The tower, on all images of a picture."""
        raise NotImplementedError

    def pixels(self, grid: Grid) -> dict[str, Tensor]:
        """Random input of the tower for one image of this many patches, by the names of its forward."""
        edge = side(self.vision.image_size)
        return {"pixel_values": torch.randn(1, 3, edge, edge)}

    def projector_flops(self, picture: Picture, plan: list[Stage]) -> float:
        """What lies between tower and language model."""
        raise NotImplementedError


def side(size: Any) -> int:
    """One side of a size, which configs write as a number or as two equal ones."""
    if isinstance(size, int):
        return size
    first, *rest = size
    if any(other != first for other in rest):
        raise ValueError(f"size={list(size)} of the tower is not square; only square towers can be counted")
    return first


def linear(rows: float, *widths: int) -> float:
    """Matrices applied one after another, from width to width, to this many rows."""
    return sum(2.0 * rows * before * after for before, after in zip(widths, widths[1:]))

"""Pictures become the tokens that stand for them in the prompt: tower, projector, crops, and the stages among them.

Shapes: G images or crops, N features of each, V the tower's width, D the language model's, n tokens of a picture.

    pixels -[pixels stage]-> tower -> features (G, N, V) -[features stage]-> projector -> crops laid out -> tokens (n, D) -[prompt stage]->
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.reduction import Record, Stage
from llava.reduction.apply import reduce_images, reduce_pixels
from llava.reduction.evidence import mixed_seed

from .anyres import CropLayout
from .pictures import Picture


@dataclass
class VisionRecord:
    """What became of the images of the last batch.

    crops: for every row, of every picture in it. features, prompt: records of the stages, whose rows are crops and
    pictures. projected: tokens of every crop that passed the projector. patches: of a crop, as the tower saw it.
    """

    crops: list[list[int]] = field(default_factory=list)
    features: list[Record] = field(default_factory=list)
    prompt: list[Record] = field(default_factory=list)
    projected: list[int] = field(default_factory=list)
    patches: int = 0

    @property
    def trace(self) -> list[Record]:
        """The stages before the decoder, in order."""
        return self.features + self.prompt


@dataclass
class VisionPath:
    """The way of a picture through one model. like: a tensor of the language model's dtype and device.

    encode: somebody's own way from pixels (G, 3, H, W) to projected features (G, N, D), in place of tower and projector.
    """

    tower: CLIPVisionTower
    projector: nn.Module
    layout: CropLayout
    like: Tensor
    encode: Callable[[Tensor], Tensor] | None = None

    def features(self, pixels: Tensor, resized: bool = False) -> Tensor:
        """pixels (G, 3, H, W) of any dtype -> (G, N, V) in the language model's dtype."""
        pixels = pixels.to(self.like.dtype)
        # A tower whose forward was replaced by LLaVA's own takes the images alone.
        seen = self.tower(pixels, resized=True) if resized else self.tower(pixels)
        return seen.to(self.like.device)

    def raw(self, plan: list[Stage], pictures: Sequence[Picture]) -> list[Tensor]:
        """(crops, N, V) of every picture; those still given as pixels pass the tower in one call."""
        fresh = [picture.data for picture in pictures if not picture.encoded]
        encoded: Iterator[Tensor] = iter(())
        if fresh:
            pixels = torch.cat([crop.to(self.tower.device) for crop in fresh])
            shrunk = reduce_pixels(plan, pixels, self.tower.config.patch_size)
            features = self.features(shrunk, resized=shrunk is not pixels)
            encoded = iter(features.split([len(crop) for crop in fresh]))
        return [picture.data if picture.encoded else next(encoded) for picture in pictures]

    def tokens(
        self,
        plan: list[Stage],
        pictures: Sequence[Picture],
        seeds: Sequence[int],
        question: tuple[Tensor, Tensor] | None,
        record: VisionRecord,
    ) -> list[Tensor]:
        """The tokens (n, D) that stand for each picture in the prompt; ``seeds`` has a number for each."""
        if not pictures:
            return []
        if self.encode is not None and not any(picture.encoded for picture in pictures):
            crops = self._encoded(self.encode, plan, pictures, record)
        else:
            crops = self._projected(plan, pictures, seeds, question, record)
        merged = [
            torch.cat(views) if picture.plain else self.layout.merge(views, picture.size)
            for picture, views in zip(pictures, crops)
        ]
        side = math.isqrt(record.patches)
        numbers = torch.tensor(seeds, device=self.like.device)
        tokens, record.prompt = reduce_images(plan, "prompt", merged, (side, side), numbers, question)
        return tokens

    def _projected(
        self,
        plan: list[Stage],
        pictures: Sequence[Picture],
        seeds: Sequence[int],
        question: tuple[Tensor, Tensor] | None,
        record: VisionRecord,
    ) -> list[list[Tensor]]:
        """The projected features (n, D) of every crop of every picture, after the stages at the features."""
        raw = [features.to(self.like.device, self.like.dtype) for features in self.raw(plan, pictures)]
        shapes = {tuple(features.shape[1:]) for features in raw}
        if len(shapes) > 1:
            raise ValueError(
                f"raw_vision_features disagree in shape: {sorted(shapes)}; give every image's as encode_raw does"
            )
        record.patches = len(raw[0][0])
        self._check_patches(plan, record.patches)
        crop_seeds = [mixed_seed(seed, crop) for seed, picture in zip(seeds, pictures) for crop in range(picture.crops)]
        owner = [number for number, picture in enumerate(pictures) for _ in range(picture.crops)]
        question = question and (question[0][owner], question[1][owner])
        side = math.isqrt(record.patches)
        numbers = torch.tensor(crop_seeds, device=self.like.device)
        crops, record.features = reduce_images(
            plan, "features", list(torch.cat(raw)), (side, side), numbers, question, owner
        )
        record.projected = [len(crop) for crop in crops]
        projected = iter(self.projector(torch.cat(crops)).split(record.projected))
        return [[next(projected) for _ in range(picture.crops)] for picture in pictures]

    def _encoded(
        self,
        encode: Callable[[Tensor], Tensor],
        plan: list[Stage],
        pictures: Sequence[Picture],
        record: VisionRecord,
    ) -> list[list[Tensor]]:
        """The projected features of every crop as the replaced ``encode_images`` makes them."""
        early = [stage for stage in plan if stage.site in ("pixels", "features")]
        if early:
            raise ValueError(
                f"{early[0]} stands before the projector, but this model's encode_images was replaced and does tower and "
                "projector itself; put the stage at site='prompt' or in a layer, or take the replacement away"
            )
        views = encode(torch.cat([picture.data.to(self.tower.device) for picture in pictures]))
        record.patches, record.projected = self.tower.num_patches, [len(view) for view in views]
        encoded = iter(views)
        return [[next(encoded) for _ in range(picture.crops)] for picture in pictures]

    def _check_patches(self, plan: list[Stage], patches: int) -> None:
        """Raises ValueError for raw features of another number of patches than the plan's pixels stages leave."""
        tower = self.tower.config
        pixels = self.like.new_empty(1, 1, tower.image_size, tower.image_size)
        shrunk = reduce_pixels(plan, pixels, tower.patch_size)
        wanted = (shrunk.shape[-1] // tower.patch_size) ** 2
        if shrunk is not pixels and wanted != patches:
            raise ValueError(
                f"raw_vision_features of {patches} patches, but the plan shrinks pictures to {wanted}; encode them "
                "under the plan: with reduced(model, plan): model.encode_raw(images)"
            )

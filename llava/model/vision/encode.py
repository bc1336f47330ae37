"""Pictures become the tokens that stand for them in the prompt: tower, projector, crops, and the stages among them.

Shapes: G images or crops, N features of each, V the tower's width, D the language model's, n tokens of a picture.

    pixels -[pixels]-> tower [tower] -> features (G, N, V) -[features]-> projector -[projected]-> crops laid out -[prompt]-> tokens (n, D)

In brackets the sites at which a stage may stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from llava.model.multimodal_encoder.tower import VisionTower
from llava.reduction import Record, Stage
from llava.reduction.evidence import mixed_seed
from llava.reduction.stage import BATCHED_SITES, CROP_SITES
from llava.reduction.views import Views, reduce_images, reduce_pixels, tower_record

from .anyres import CropLayout
from .pictures import Picture
from .seen import SeenCrops, check_sites, needs_pixels, reads_tower
from .seen_image import SeenImage, merging_stages, see
from .splice import VisualTokens


@dataclass
class VisionRecord:
    """What became of the images of the last batch.

    crops: for every row, how many crops each picture in it has. tower, features, projected, prompt: records of the
    stages, whose rows are crops and, at the prompt, pictures. projector_rows: tokens of every crop that passed the
    projector. patches: of a crop, as the tower saw it. tower_rows: positions of a crop that each layer of the tower
    computed.
    """

    crops: list[list[int]] = field(default_factory=list)
    tower: list[Record] = field(default_factory=list)
    features: list[Record] = field(default_factory=list)
    projected: list[Record] = field(default_factory=list)
    prompt: list[Record] = field(default_factory=list)
    projector_rows: list[int] = field(default_factory=list)
    patches: int = 0
    tower_rows: list[int] = field(default_factory=list)

    @property
    def trace(self) -> list[Record]:
        """The stages before the decoder, in order."""
        return self.tower + self.features + self.projected + self.prompt


@dataclass
class VisionPath:
    """The way of a picture through one model. like: a tensor of the language model's dtype and device.

    encode: a replacement that goes from pixels (G, 3, H, W) to projected features (G, N, D), without tower and
    projector.
    """

    tower: VisionTower
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
        """(crops, N, V) of every picture; those still given as pixels pass the tower in one call, whole."""
        fresh = self._pixels(plan, pictures)
        encoded: Iterator[Tensor] = iter(())
        if fresh is not None:
            features = self.features(fresh, resized=self._resized(fresh))
            encoded = iter(features.split([picture.crops for picture in pictures if not picture.encoded]))
        return [picture.data if picture.encoded else next(encoded) for picture in pictures]

    def see(self, plan: list[Stage], pictures: Sequence[Picture]) -> list[SeenImage]:
        """Every picture with what the plan asks of the tower; those still given as pixels pass it in one call, whole.

        Raises ValueError for pictures given as features that lack what the plan asks for.
        """
        given = [picture.seen or self._features_alone(picture, picture.data) for picture in pictures if picture.encoded]
        for seen in given:
            seen.check(plan, self.tower)
        if not needs_pixels(plan):
            return [self._features_alone(picture, raw) for picture, raw in zip(pictures, self.raw(plan, pictures))]
        fresh = self._pixels(plan, pictures)
        if fresh is None:
            return given
        seen = see(plan, fresh.to(self.like.dtype), self.tower, self._resized(fresh))
        crops = seen.split([picture.crops for picture in pictures])
        return [replace(image, plain=picture.plain) for image, picture in zip(crops, pictures, strict=True)]

    def _features_alone(self, picture: Picture, raw: Tensor) -> SeenImage:
        """A picture of which nobody reads more than its features (crops, N, V), as the language model's numbers."""
        patches = raw.shape[1]
        return SeenImage(
            raw.to(self.like.device, self.like.dtype),
            patches,
            [self.tower.front + patches] * self.tower.layers_run,
            picture.plain,
        )

    def tokens(
        self,
        plan: list[Stage],
        pictures: Sequence[Picture],
        seeds: Sequence[int],
        question: tuple[Tensor, Tensor] | None,
        words: list[str] | None,
        record: VisionRecord,
    ) -> list[VisualTokens]:
        """The tokens that stand for each picture in the prompt.

        ``seeds`` has a number for each picture, ``question`` the embeddings of what is asked about each, ``words`` its text.
        """
        if not pictures:
            return []
        device = self.like.device
        if self.encode is not None and not any(picture.encoded for picture in pictures):
            crops, sizes = self._encoded(self.encode, plan, pictures, record), None
        else:
            crops, sizes = self._projected(plan, pictures, seeds, question, words, record)
        merged = [
            torch.cat(views) if picture.plain else self.layout.merge(views, picture.size)
            for picture, views in zip(pictures, crops)
        ]
        if sizes is not None and [len(size) for size in sizes] != [len(tokens) for tokens in merged]:
            raise ValueError(
                f"mm_patch_merge_type={self.layout.kind!r} puts tokens of its own between those of the crops, which have no size;"
                " use the method's option without sizes, or merge 'flat'"
            )
        side = math.isqrt(record.patches)
        views = Views(merged, torch.tensor(seeds, device=device), (side, side), question, sizes=sizes)
        views, record.prompt = reduce_images(plan, "prompt", views)
        grids = [(side, side) if length == side * side else (0, 0) for length in views.lengths]
        return list(map(VisualTokens, views.tokens, views.sizes or [None] * len(grids), grids))

    def _projected(
        self,
        plan: list[Stage],
        pictures: Sequence[Picture],
        seeds: Sequence[int],
        question: tuple[Tensor, Tensor] | None,
        words: list[str] | None,
        record: VisionRecord,
    ) -> tuple[list[list[Tensor]], list[Tensor] | None]:
        """The projected tokens (n, D) of every crop of every picture, after all stages before the layout.

        Where merged tokens have sizes also those of every picture (n,).
        """
        owner = [number for number, picture in enumerate(pictures) for _ in range(picture.crops)]
        crop_seeds = [mixed_seed(seed, crop) for seed, picture in zip(seeds, pictures) for crop in range(picture.crops)]
        views = Views(
            tokens=[],
            seeds=torch.tensor(crop_seeds, device=self.like.device),
            question=question and (question[0][owner], question[1][owner]),
            owners=owner,
            crop_grids={
                number: grid
                for number, picture in enumerate(pictures)
                if (grid := self.layout.crop_grid(picture.crops, picture.size)) is not None
            },
        )
        asked = None if words is None else [words[number] for number in owner]
        views = self._seen(plan, pictures, views, asked, record)
        views, record.features = reduce_images(plan, "features", views)
        record.projector_rows = views.lengths
        projected = list(self.projector(torch.cat(views.tokens)).split(views.lengths))
        views, record.projected = reduce_images(plan, "projected", replace(views, tokens=projected))
        crops = [[token for token, of in zip(views.tokens, owner) if of == number] for number in range(len(pictures))]
        if views.sizes is None:
            return crops, None
        sized = [[size for size, of in zip(views.sizes, owner) if of == number] for number in range(len(pictures))]
        return crops, [torch.cat(sizes) for sizes in sized]

    def _seen(
        self,
        plan: list[Stage],
        pictures: Sequence[Picture],
        views: Views,
        words: list[str] | None,
        record: VisionRecord,
    ) -> Views:
        """The crops as the tower saw them, with what it can tell about them where a stage asks."""
        images = self.see(plan, pictures)
        self._check_alike(images)
        seen, device = SeenImage.joined(images), self.like.device
        self._check_patches(plan, seen.patches)
        record.patches, record.tower_rows = seen.patches, seen.rows
        side = math.isqrt(seen.patches)
        features = seen.features.to(device, self.like.dtype)
        views = replace(views, tokens=list(features), grid=(side, side))
        if reads_tower(plan) and seen.hidden is not None:
            patches = features[:, -seen.patches :]  # without the class token
            return replace(views, tokens=list(patches), tower=SeenCrops(self.tower, seen.entered, seen.hidden, words))
        if seen.origins is None:
            return views
        origins = seen.origins.to(device)
        (stage,) = merging_stages(plan)
        record.tower = [tower_record(stage, origins, seen.patches)]
        return replace(views, origins=list(origins))

    def _pixels(self, plan: list[Stage], pictures: Sequence[Picture]) -> Tensor | None:
        """The crops (G, 3, H, W) of the pictures given as pixels, after the stages at the pixels; None without any."""
        check_sites(plan, self.tower)
        fresh = [picture.data.to(self.tower.device) for picture in pictures if not picture.encoded]
        return reduce_pixels(plan, torch.cat(fresh), self.tower.config.patch_size) if fresh else None

    def _resized(self, pixels: Tensor) -> bool:
        side = self.tower.image_size
        return pixels.shape[-2:] != (side, side)

    @staticmethod
    def _check_alike(images: list[SeenImage]) -> None:
        """Raises ValueError for features whose crops differ in shape."""
        shapes = {tuple(image.features.shape[1:]) for image in images}
        if len(shapes) > 1:
            raise ValueError(
                f"raw_vision_features disagree in shape: {sorted(shapes)}; give every image's as encode_raw does"
            )

    def _encoded(
        self,
        encode: Callable[[Tensor], Tensor],
        plan: list[Stage],
        pictures: Sequence[Picture],
        record: VisionRecord,
    ) -> list[list[Tensor]]:
        """The projected features of every crop as the replaced ``encode_images`` makes them."""
        early = [stage for stage in plan if stage.site in (*BATCHED_SITES, *CROP_SITES)]
        if early:
            raise ValueError(
                f"{early[0]} stands before the projector, but this model's encode_images was replaced and does tower and "
                "projector itself; put the stage at site='prompt' or in a layer, or take the replacement away"
            )
        views = encode(torch.cat([picture.data.to(self.tower.device) for picture in pictures]))
        record.patches, record.projector_rows = self.tower.num_patches, [len(view) for view in views]
        record.tower_rows = [self.tower.front + record.patches] * self.tower.layers_run
        encoded = iter(views)
        return [[next(encoded) for _ in range(picture.crops)] for picture in pictures]

    def _check_patches(self, plan: list[Stage], patches: int) -> None:
        """Raises ValueError for raw features of another number of patches than the plan's pixels stages leave."""
        tower = self.tower.config
        pixels = self.like.new_empty(1, 1, self.tower.image_size, self.tower.image_size)
        shrunk = reduce_pixels(plan, pixels, tower.patch_size)
        wanted = (shrunk.shape[-1] // tower.patch_size) ** 2
        if shrunk is not pixels and wanted != patches:
            raise ValueError(
                f"raw_vision_features of {patches} patches, but the plan shrinks pictures to {wanted}; encode them "
                "under the plan: with reduced(model, plan): model.encode_raw(images)"
            )

"""What the tower made of an image under a plan, kept to be asked about again.

Shapes: G crops, P patches of each, F rows in front of them, n tokens of a crop that leave the tower (fewer than P after a
merge), V its width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import itemgetter

import torch
from torch import Tensor

from llava.model.multimodal_encoder.tower import VisionTower
from llava.reduction import Stage

from .merging import MergingTower
from .seen import check_evidence, reads_tower, watched_layers

CURE = "give the images themselves, or encode them under the plan: model.encode_seen(images, plan)"


@dataclass(frozen=True)
class SeenImage:
    """The crops of one image, or of several, as they left the tower, with what a plan asks the tower besides.

    features: (G, n, V), with the class token in front where the tower keeps it. patches: P. rows: positions of a crop that
    each layer of the tower computed. plain: one view of its image, nothing to lay out. hidden, entered: as in
    ``TowerOutput``, None and empty where no stage of the plan reads more than features. merged_by: the stage that merged in
    the tower; origins: which patch each token that is left stands for, (G, n).
    """

    features: Tensor
    patches: int
    rows: list[int]
    plain: bool = False
    hidden: Tensor | None = None
    entered: dict[int, Tensor] = field(default_factory=dict)
    merged_by: str = ""
    origins: Tensor | None = None

    def check(self, plan: list[Stage], tower: VisionTower) -> None:
        """Raises ValueError for a plan that merges otherwise in the tower, or asks for what was not kept."""
        merges = "+".join(map(str, merging_stages(plan)))
        if self.merged_by != merges:
            raise ValueError(
                f"raw_vision_features were made with {self.merged_by or 'no merge'} in the tower, where the plan has"
                f" {merges or 'none'}; {CURE}"
            )
        if not reads_tower(plan):
            return
        missing = watched_layers(plan, tower) - set(self.entered)
        if self.hidden is None or missing:
            raise ValueError(
                f"{'+'.join(map(str, plan))} reads more of the tower than raw_vision_features tell"
                f"{f' (of its layer {min(missing)})' if missing else ''}; {CURE}"
            )

    def split(self, crops: Sequence[int]) -> list[SeenImage]:
        """One for each of the images whose crops these are, given how many each has."""
        ends = zip(crops, accumulate(crops), strict=True)
        return [self._each(itemgetter(slice(end - count, end))) for count, end in ends]

    def copied(self) -> SeenImage:
        """A copy that does not keep alive the batch of which this is a part."""
        return self._each(Tensor.clone)

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        held = [self.features, self.hidden, self.origins, *self.entered.values()]
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    @classmethod
    def joined(cls, images: Sequence[SeenImage]) -> SeenImage:
        """The crops of several images, seen under one plan, in order."""
        hidden = [image.hidden for image in images if image.hidden is not None]
        origins = [image.origins for image in images if image.origins is not None]
        layers = set.intersection(*(set(image.entered) for image in images))
        return replace(
            images[0],
            features=torch.cat([image.features for image in images]),
            hidden=torch.cat(hidden) if hidden else None,
            entered={layer: torch.cat([image.entered[layer] for image in images]) for layer in layers},
            origins=torch.cat(origins) if origins else None,
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> SeenImage:
        """With every tensor changed."""
        return replace(
            self,
            features=change(self.features),
            hidden=None if self.hidden is None else change(self.hidden),
            entered={layer: change(states) for layer, states in self.entered.items()},
            origins=None if self.origins is None else change(self.origins),
        )


def merging_stages(plan: list[Stage]) -> list[Stage]:
    """The stages of a plan that merge inside the tower."""
    return [stage for stage in plan if stage.site == "tower"]


def see(plan: list[Stage], pixels: Tensor, tower: VisionTower, resized: bool = False) -> SeenImage:
    """The crops (G, 3, H, W) through a tower in which a stage merges, or of which a stage reads more than features.

    resized: as in ``VisionTower.encode``. Raises ValueError for a plan that asks for what the tower lacks, and for one that
    reads what it has merged.
    """
    check_evidence(plan, tower)
    merging, patches = merging_stages(plan), tower.patches_of(pixels)
    if not merging:
        output = tower.encode(pixels, resized, watched_layers(plan, tower))
        return SeenImage(output.features, patches, output.rows, hidden=output.hidden, entered=output.entered)
    if reads_tower(plan) or len(merging) > 1:
        raise ValueError(
            f"{merging[0]} merges tokens in the tower, after which its attention and keys are about other tokens; do"
            " not combine it with a second stage there, or with one that reads the tower"
        )
    runner = MergingTower(merging[0], len(pixels), patches, tower)
    output = tower.encode(pixels, resized, runner=runner)
    features, origins = output.patches, runner.origins
    if runner.reducer.in_raster_order:
        order = origins.argsort(dim=1)
        features, origins = features.gather(1, order[..., None].expand_as(features)), origins.gather(1, order)
    return SeenImage(features, patches, output.rows, merged_by=str(merging[0]), origins=origins)

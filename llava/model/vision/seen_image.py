"""What the tower made of an image under a plan, kept to be asked about again.

Shapes: G crops, P patches of each, n tokens of a crop that leave the tower (fewer after a merge), V its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llava.model.multimodal_encoder.tower import TowerOutput, VisionTower
from llava.reduction import Stage

from .merging import MergingTower
from .seen import check_evidence, reads_tower, watched_layers

CURE = "give the images themselves, or encode them under the plan: model.encode_seen(images, plan)"


@dataclass(frozen=True)
class SeenImage:
    """The crops of one image, or of several, as they left the tower, with what a plan asks the tower besides.

    features: (G, n, V). patches: P. rows: positions of a crop that each layer of the tower computed. plain: one view of
    its image, nothing to lay out. output: what stages can read, None where none of the plan's reads more than features.
    merged_by: the stage that merged in the tower; origins: which patch each token that is left stands for, (G, n).
    """

    features: Tensor
    patches: int
    rows: list[int]
    plain: bool = False
    output: TowerOutput | None = None
    merged_by: str = ""
    origins: Tensor | None = None

    @property
    def raw(self) -> Tensor:
        """(G, n, V) as a plan is given them that reads features alone: where the tower keeps it, with the class token."""
        return self.features if self.output is None else self.output.features

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
        missing = watched_layers(plan, tower) - set(self.output.entered if self.output else ())
        if self.output is None or missing:
            raise ValueError(
                f"{'+'.join(map(str, plan))} reads more of the tower than raw_vision_features tell"
                f"{f' (of its layer {min(missing)})' if missing else ''}; {CURE}"
            )

    def split(self, crops: Sequence[int]) -> list[SeenImage]:
        """One for each of the images whose crops these are, given how many each has."""
        nothing = [None] * len(crops)
        return [
            replace(self, features=features, output=output, origins=origins)
            for features, output, origins in zip(
                self.features.split(crops),
                nothing if self.output is None else _split(self.output, crops),
                nothing if self.origins is None else self.origins.split(crops),
                strict=True,
            )
        ]

    @classmethod
    def joined(cls, images: Sequence[SeenImage]) -> SeenImage:
        """The crops of several images, seen under one plan, in order."""
        outputs = [image.output for image in images if image.output is not None]
        origins = [image.origins for image in images if image.origins is not None]
        return replace(
            images[0],
            features=torch.cat([image.features for image in images]),
            output=_joined(outputs) if outputs else None,
            origins=torch.cat(origins) if origins else None,
        )


def _split(output: TowerOutput, crops: Sequence[int]) -> list[TowerOutput]:
    entered = {layer: states.split(crops) for layer, states in output.entered.items()}
    parts = zip(output.features.split(crops), output.patches.split(crops), output.hidden.split(crops), strict=True)
    return [
        TowerOutput(*part, {layer: states[number] for layer, states in entered.items()}, output.rows)
        for number, part in enumerate(parts)
    ]


def _joined(outputs: Sequence[TowerOutput]) -> TowerOutput:
    layers = set.intersection(*(set(output.entered) for output in outputs))
    return TowerOutput(
        features=torch.cat([output.features for output in outputs]),
        patches=torch.cat([output.patches for output in outputs]),
        hidden=torch.cat([output.hidden for output in outputs]),
        entered={layer: torch.cat([output.entered[layer] for output in outputs]) for layer in layers},
        rows=outputs[0].rows,
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
        return SeenImage(output.patches, patches, output.rows, output=output)
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

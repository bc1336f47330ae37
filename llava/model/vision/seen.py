"""What the tower saw of a batch of crops: the evidence that stages before the decoder can ask for.

Shapes: g crops that are asked about, P patches, F rows in front of them (class token, registers), H heads, d width of a
head, V the tower's width, E CLIP's shared space.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from llava.model.multimodal_encoder.scaled_tower import ScaledTower
from llava.model.multimodal_encoder.scales import check_stages
from llava.model.multimodal_encoder.tower import VisionTower
from llava.reduction import Need, Stage
from llava.reduction.stage import tower_layers

CHUNK = 128  # query rows at a time


def watched_layers(plan: list[Stage], tower: VisionTower) -> set[int]:
    """The layers of the tower whose input the stages of a plan ask for."""
    return {tower.layer_number(layer) for layer in tower_layers(plan)}


def reads_tower(plan: list[Stage]) -> bool:
    """Whether a stage before the decoder asks the tower for more than its features."""
    return any(stage.needs & {Need.CLS, Need.TOWER, Need.CLIP} for stage in plan if stage.site != "layer")


def needs_pixels(plan: list[Stage]) -> bool:
    """Whether the tower must run under the plan: a stage merges tokens in it, or asks it for more than its features.

    Where not, features that were made before will do.
    """
    return reads_tower(plan) or any(stage.site == "tower" for stage in plan)


def tower_share(plan: list[Stage]) -> tuple[Hashable, ...]:
    """What a plan does to pictures up to the end of the tower and asks of it: a picture encoded under one serves its equals."""
    changes = tuple(str(stage) for stage in plan if stage.site in ("pixels", "tower"))
    if not reads_tower(plan):
        return changes, None
    # What a schedule asks is known once it is written out for a decoder; its name stands for it.
    return changes, tower_layers(plan), tuple(str(stage) for stage in plan if stage.site == "schedule")


def check_evidence(plan: list[Stage], tower: VisionTower) -> None:
    """Raises ValueError for a stage that asks a tower for what its family lacks, naming what may stand for it."""
    for stage in plan:
        if stage.site == "layer":
            continue
        if Need.CLS in stage.needs and not tower.family.has_class_token:
            raise _no_class_token(tower, f"{stage} reads the class token, but ")
        if Need.CLIP in stage.needs:
            _ = tower.text


def check_sites(plan: list[Stage], tower: VisionTower) -> None:
    """Raises ValueError for a stage that changes what a tower of several scales computes."""
    if isinstance(tower, ScaledTower):
        check_stages(plan)


def _no_class_token(tower: VisionTower, reader: str = "") -> ValueError:
    return ValueError(
        f"{reader}vision tower {tower.vision_tower_name!r} is a {tower.family.name}, which has no class token; give the method's"
        " option saliency=mean_attention, or where it has none take a method that reads no class token, such as divprune"
    )


@dataclass
class SeenCrops:
    """A tower and what went through it: ``TowerEvidence`` for every crop of a batch.

    entered: the input of the layers asked for, (G, F + P, V). hidden: the selected hidden state (G, F + P, V). questions:
    what is asked about each crop, where a stage reads it.
    """

    tower: VisionTower
    entered: dict[int, Tensor]
    hidden: Tensor
    questions: list[str] | None = None
    _held: dict[tuple[str, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def cls_attention(self, crops: Tensor, layer: int) -> Tensor:
        """Attention of the class token to itself and to the patches: (g, H, 1 + P)."""
        self._class_token_required()
        key = "attention", self.tower.layer_number(layer)
        if key not in self._held:
            query, keys = self._heads("q", layer, slice(1)), self._heads("k", layer)
            attention = self._softmax(query, keys)[:, :, 0]
            self._held[key] = torch.cat([attention[..., :1], attention[..., self.tower.front :]], dim=-1)
        return self._held[key][crops]

    def mean_attention(self, crops: Tensor, layer: int) -> Tensor:
        """Attention that each patch receives from all patches, mean over them: (g, H, P)."""
        key = "mean attention", self.tower.layer_number(layer)
        if key not in self._held:
            front = self.tower.front
            queries, keys = self._heads("q", layer, slice(front, None)), self._heads("k", layer)
            parts = [self._softmax(part, keys)[..., front:].sum(2) for part in queries.split(CHUNK, dim=2)]
            self._held[key] = torch.stack(parts).sum(0) / queries.shape[2]
        return self._held[key][crops]

    def keys(self, crops: Tensor, layer: int) -> Tensor:
        """Keys of the patches: (g, H, P, d)."""
        return self._heads("k", layer)[crops, :, self.tower.front :].float()

    def cls_projections(self, crops: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The class token's query, not scaled, and its key: (g, H, d) each."""
        self._class_token_required()
        return self._heads("q", layer, slice(1))[crops, :, 0].float(), self._heads("k", layer)[crops, :, 0].float()

    def cls_row(self, crops: Tensor) -> Tensor:
        """The class token's row of the selected hidden state: (g, V)."""
        self._class_token_required()
        return self.hidden[crops, 0]

    def clip_patches(self, crops: Tensor) -> Tensor:
        """The patches in CLIP's shared space, not normalised: (g, P, E)."""
        return self._shared[crops]

    def clip_text(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The question in CLIP's shared space, a row for each segment (g, M, E), and which are real (g, M)."""
        texts, real = self._texts[0]
        return texts[crops], real[crops]

    def clip_words(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The question's tokens in CLIP's shared space (g, T, E), without the ends of the text, and which are real."""
        words, real = self._texts[1]
        return words[crops], real[crops]

    @cached_property
    def _shared(self) -> Tensor:
        """All patches (G, P, E) in CLIP's shared space."""
        norm = getattr(self.tower.vision_tower, self.tower.family.last_norm)
        return self.tower.text.project(self.hidden[:, self.tower.front :], norm)

    @cached_property
    def _texts(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Segments and words of the question about every crop, read once however often they are asked for."""
        if self.questions is None:
            raise ValueError("no question was handed in; a method that reads it must name Need.CLIP among its needs")
        return self.tower.text.encode(self.questions)

    def _class_token_required(self) -> None:
        if not self.tower.family.has_class_token:
            raise _no_class_token(self.tower)

    def _heads(self, which: Literal["q", "k"], layer: int, rows: slice = slice(None)) -> Tensor:
        """Queries or keys of some rows of all crops in a layer, split into heads: (G, H, n, d)."""
        number = self.tower.layer_number(layer)
        if number not in self.entered:
            raise ValueError(
                f"nobody asked for layer {layer} of the tower in time; a method names it in its tower_layers"
            )
        key = f"{which}{rows}", number
        if key not in self._held:
            family = self.tower.family
            parts = family.parts(family.own_layers(self.tower.vision_tower)[number])
            projected = getattr(parts, which)(parts.norm1(self.entered[number][:, rows]))
            self._held[key] = projected.unflatten(-1, (self.tower.config.num_attention_heads, -1)).transpose(1, 2)
        return self._held[key]

    @staticmethod
    def _softmax(queries: Tensor, keys: Tensor) -> Tensor:
        return (queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).float().softmax(-1)

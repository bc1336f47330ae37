"""What the tower saw of a batch of crops: the evidence that stages before the decoder can ask for.

Shapes: g crops that are asked about, P patches, H heads, d width of a head, V the tower's width, E CLIP's shared space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.reduction import Need, Stage

CHUNK = 128  # query rows at a time


def watched_layers(plan: list[Stage], tower: CLIPVisionTower) -> set[int]:
    """The layers of the tower whose input the stages of a plan ask for."""
    early = [stage for stage in plan if stage.site in ("features", "projected")]
    return {tower.layer_number(layer) for stage in early for layer in stage.reducer.tower_layers}


def reads_tower(plan: list[Stage]) -> bool:
    """Whether a stage before the decoder asks the tower for more than its features."""
    return any(stage.reducer.needs & {Need.CLS, Need.TOWER, Need.CLIP} for stage in plan if stage.site != "layer")


@dataclass
class SeenCrops:
    """A CLIP tower and what went through it: ``TowerEvidence`` for every crop of a batch.

    entered: the input of the layers asked for, (G, 1 + P, V). hidden: the selected hidden state (G, 1 + P, V). questions:
    what is asked about each crop, where a stage reads it.
    """

    tower: CLIPVisionTower
    entered: dict[int, Tensor]
    hidden: Tensor
    questions: list[str] | None = None

    def cls_attention(self, crops: Tensor, layer: int) -> Tensor:
        """Attention of the class token to itself and to the patches: (g, H, 1 + P)."""
        attention, states = self._layer(crops, layer)
        query = _heads(attention, "q", states[:, :1])
        return self._softmax(attention, query, _heads(attention, "k", states))[:, :, 0]

    def mean_attention(self, crops: Tensor, layer: int) -> Tensor:
        """Attention that each patch receives from all patches, mean over them: (g, H, P)."""
        attention, states = self._layer(crops, layer)
        queries, keys = _heads(attention, "q", states[:, 1:]), _heads(attention, "k", states)
        parts = [self._softmax(attention, part, keys)[..., 1:].sum(2) for part in queries.split(CHUNK, dim=2)]
        return torch.stack(parts).sum(0) / queries.shape[2]

    def keys(self, crops: Tensor, layer: int) -> Tensor:
        """Keys of the patches: (g, H, P, d)."""
        attention, states = self._layer(crops, layer)
        return _heads(attention, "k", states[:, 1:]).float()

    def cls_projections(self, crops: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The class token's query, not scaled, and its key: (g, H, d) each."""
        attention, states = self._layer(crops, layer)
        query, key = (_heads(attention, which, states[:, :1])[:, :, 0].float() for which in "qk")
        return query, key

    def cls_row(self, crops: Tensor) -> Tensor:
        """The class token's row of the selected hidden state: (g, V)."""
        return self.hidden[crops, 0]

    def clip_patches(self, crops: Tensor) -> Tensor:
        """The patches in CLIP's shared space, not normalised: (g, P, E)."""
        model: Any = self.tower.vision_tower
        return self.tower.text.project(self.hidden[crops, 1:], model.post_layernorm)

    def clip_text(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The question in CLIP's shared space, a row for each segment (g, M, E), and which are real (g, M)."""
        return self._text(crops)[0]

    def clip_words(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The question's tokens in CLIP's shared space (g, T, E), without the ends of the text, and which are real."""
        return self._text(crops)[1]

    def _text(self, crops: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        if self.questions is None:
            raise ValueError("no question was handed in; a method that reads it must name Need.CLIP among its needs")
        return self.tower.text.encode([self.questions[crop] for crop in crops.tolist()])

    def _layer(self, crops: Tensor, layer: int) -> tuple[Any, Tensor]:
        """The attention of a layer and its normed input (g, 1 + P, V) for some crops."""
        number = self.tower.layer_number(layer)
        if number not in self.entered:
            raise ValueError(
                f"nobody asked for layer {layer} of the tower in time; a method names it in its tower_layers"
            )
        model: Any = self.tower.vision_tower
        block = model.encoder.layers[number]
        return block.self_attn, block.layer_norm1(self.entered[number][crops])

    @staticmethod
    def _softmax(attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
        return (queries @ keys.transpose(-1, -2) * attention.scale).float().softmax(-1)


def _heads(attention: Any, which: str, states: Tensor) -> Tensor:
    """Queries or keys of (g, n, V), split into heads: (g, H, n, d)."""
    return getattr(attention, f"{which}_proj")(states).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

"""Merging inside the tower: a stage at site "tower" shortens the sequence in every layer that runs.

Shapes: G crops, n patches that are left, F rows in front of them (a class token, or none), V the tower's width, d width of
a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava.model.multimodal_encoder.tower import VisionTower
from llava.reduction import Stage
from llava.reduction.apply import unrounded


class MergingTower:
    """Runs a tower's layers and lets a reducer merge between attention and feed-forward, as ToMe does.

    Keys of merged tokens weigh log size more where the reducer says so. Afterwards ``origins`` (G, n) says which patch each
    token that is left stands for, and ``sizes`` (G, F + n) how many rows each is made of, the class token among them. Raises
    ValueError for a tower with registers.
    """

    def __init__(self, stage: Stage, crops: int, patches: int, tower: VisionTower):
        if tower.front > 1:
            raise ValueError(
                f"{stage} merges in the tower, but vision tower {tower.vision_tower_name!r} has {tower.front - 1} registers,"
                " which must not be merged; take a method at site='features', such as divprune or prunesid"
            )
        layers, device = tower.layers_run, tower.device
        self.family, self.heads, self.front = tower.family, tower.config.num_attention_heads, tower.front
        keep = stage.budget(patches)
        self.reducer = stage.reducer
        self.steps = self.reducer.tower_steps(patches, patches if keep is None else keep, layers)
        self.origins = torch.arange(patches, device=device).expand(crops, -1)
        self.rows = self.front + patches
        self.sizes = torch.ones(crops, self.rows, device=device)

    def __call__(self, number: int, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One layer (G, F + n, V) -> (G, F + n', V); a class token stays in front."""
        parts = self.family.parts(layer)
        states = parts.norm1(hidden)
        queries, keys, values = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (parts.q, parts.k, parts.v)
        )
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=self._bias(hidden))
        hidden = hidden + parts.after_attention(parts.out(seen.transpose(1, 2).flatten(2)))
        if self.steps[number]:
            with unrounded(hidden.device):
                merged = self.reducer.merge_in_tower(
                    hidden, keys.mean(1), self.sizes, self.steps[number], protected=self.front
                )
            hidden = merged.tokens.to(hidden.dtype)
            self.origins = self.origins.gather(1, merged.origin[:, self.front :] - self.front)
            self.sizes = self.sizes.gather(1, merged.origin) if merged.sizes is None else merged.sizes
        return hidden + parts.after_mlp(parts.mlp(parts.norm2(hidden)))

    def _bias(self, hidden: Tensor) -> Tensor | None:
        """What the logits of every key gain: (G, 1, 1, F + n); None before the first merge."""
        if not self.reducer.weighs_sizes or hidden.shape[1] == self.rows:
            return None
        return self.sizes.log().to(hidden.dtype)[:, None, None]

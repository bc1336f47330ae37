"""Merging inside the tower: a stage at site "tower" shortens the sequence in every layer that runs.

Shapes: G crops, n patches that are left, V the tower's width, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava.reduction import Stage


class MergingTower:
    """Runs a tower's layers and lets a reducer merge between attention and feed-forward, as ToMe does.

    Keys of merged tokens weigh log size more where the reducer says so. Afterwards ``origins`` (G, n) says which patch each
    token that is left stands for, and ``sizes`` (G, 1 + n) how many rows each is made of, the class token among them.
    """

    def __init__(self, stage: Stage, crops: int, patches: int, layers: int, device: torch.device):
        keep = stage.budget(patches)
        self.reducer = stage.reducer
        self.steps = self.reducer.tower_steps(patches, patches if keep is None else keep, layers)
        self.origins = torch.arange(patches, device=device).expand(crops, -1)
        self.rows = 1 + patches
        self.sizes = torch.ones(crops, self.rows, device=device)

    def __call__(self, number: int, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One layer (G, 1 + n, V) -> (G, 1 + n', V); the class token stays in front."""
        block: Any = layer
        attention, states = block.self_attn, block.layer_norm1(hidden)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        queries, keys, values = (
            project(states).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for project in projections
        )
        seen = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=self._bias(hidden), scale=attention.scale
        )
        hidden = hidden + attention.out_proj(seen.transpose(1, 2).flatten(2))
        if self.steps[number]:
            merged = self.reducer.merge_in_tower(hidden, keys.mean(1), self.sizes, self.steps[number], protected=1)
            hidden = merged.tokens.to(hidden.dtype)
            self.origins = self.origins.gather(1, merged.origin[:, 1:] - 1)
            self.sizes = self.sizes.gather(1, merged.origin) if merged.sizes is None else merged.sizes
        return hidden + block.mlp(block.layer_norm2(hidden))

    def _bias(self, hidden: Tensor) -> Tensor | None:
        """What the logits of every key gain: (G, 1, 1, 1 + n); None before the first merge."""
        if not self.reducer.weighs_sizes or hidden.shape[1] == self.rows:
            return None
        return self.sizes.log().to(hidden.dtype)[:, None, None]

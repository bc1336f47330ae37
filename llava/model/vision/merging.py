"""Merging inside the tower: a stage at site "tower" shortens the sequence in every layer that runs.

Shapes: G crops, n patches that are left, V the tower's width, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llava.reduction import Stage


class MergingTower:
    """Runs a tower's layers and lets a reducer merge between attention and feed-forward, as ToMe does.

    Sizes of merged tokens weigh their keys by log size. Afterwards ``origins`` (G, n) says which patch each token that is
    left goes back to, and ``sizes`` (G, n) how many patches it stands for.
    """

    def __init__(self, stage: Stage, crops: int, patches: int, layers: int, device: torch.device):
        keep = stage.budget(patches)
        self.reducer = stage.reducer
        self.steps = self.reducer.tower_steps(patches, patches if keep is None else keep, layers)
        self.origins = torch.arange(patches, device=device).expand(crops, -1)
        self.sizes = torch.ones(crops, patches, device=device)

    def __call__(self, number: int, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One layer (G, 1 + n, V) -> (G, 1 + n', V); the class token stays in front."""
        block: Any = layer
        states = block.layer_norm1(hidden)
        hidden = hidden + block.self_attn(hidden_states=states, attention_mask=self._bias(hidden))[0]
        if self.steps[number]:
            keys = block.self_attn.k_proj(states[:, 1:]).unflatten(-1, (block.self_attn.num_heads, -1)).mean(2)
            merged = self.reducer.merge(hidden[:, 1:], keys, self.sizes, self.steps[number])
            hidden = torch.cat([hidden[:, :1], merged.tokens.to(hidden.dtype)], dim=1)
            self.origins = self.origins.gather(1, merged.origin)
            self.sizes = self.sizes.gather(1, merged.origin) if merged.sizes is None else merged.sizes
        return hidden + block.mlp(block.layer_norm2(hidden))

    def _bias(self, hidden: Tensor) -> Tensor | None:
        """What the logits of every key gain: (G, 1, 1, 1 + n); None while no token stands for several."""
        if not self.reducer.weighs_sizes or bool((self.sizes == 1).all()):
            return None
        return nn.functional.pad(self.sizes.log(), (1, 0)).to(hidden.dtype)[:, None, None]

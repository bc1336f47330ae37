"""A pass that goes on from a cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from .base import Decoder, Inputs, Pass
from .state import STATE, CacheState


class Step(Pass):
    """A pass that goes on from a cache: every layer sees of the prompt what its prefill left."""

    def __init__(
        self,
        decoder: Decoder,
        config: Any,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        cache: Cache | None,
        past: int,
        length: int,
    ):
        super().__init__(decoder, config, cache)
        state: CacheState | None = getattr(cache, STATE, None) if past else None
        self.segments = {segment.layer: segment for segment in state.segments} if state else {}
        self.position_ids, self.prompt, self.total = position_ids, state.prompt if state else past, past + length
        self.answered = attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """New rotary embedding and mask where the prefill had a stage; the same objects elsewhere."""
        segment = self.segments.get(number)
        if segment is None:
            return inputs
        hidden, rope = inputs.hidden, inputs.rope
        if segment.shift is not None:
            moved = self.position_ids.to(hidden.device) - segment.shift.to(hidden.device)
            rope = self.decoder.rotary_emb(hidden, position_ids=moved)
        if self.answered is None:
            grown = torch.ones(len(hidden), self.total - self.prompt, dtype=torch.bool, device=hidden.device)
        else:
            grown = self.answered[:, self.prompt :].bool().to(hidden.device)
        visible = torch.cat([segment.visible.to(hidden.device), grown], dim=1)
        size = segment.size
        if size is not None:
            size = nn.functional.pad(size.to(hidden.device), (0, grown.shape[1]), value=1.0)
        return Inputs(hidden, rope, self._mask(number, hidden, visible, size), None)

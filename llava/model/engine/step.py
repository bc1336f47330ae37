"""A pass that goes on from a cache.

Shapes: B batch, q new rows, k keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from .base import Decoder, Inputs, Pass
from .masks import plain_mask, sliding_window, window_mask
from .state import STATE, CacheState, HeldRows, Segment


class Step(Pass):
    """A pass that goes on from a cache: every layer sees of the prompt what its prefill left."""

    def __init__(
        self,
        decoder: Decoder,
        config: Any,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        past: int,
        length: int,
    ):
        super().__init__(decoder, config, cache)
        state: CacheState | None = getattr(cache, STATE, None) if past else None
        self.segments = state.segments if state else []
        self.position_ids, self.prompt, self.total = position_ids, state.prompt if state else past, past + length
        self.answered = attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """Rotary embedding and mask for what the prefill left to this layer; the same objects before its first stage."""
        segment = next((segment for segment in reversed(self.segments) if segment.layer <= number), None)
        if segment is None:
            return inputs
        hidden, rope = inputs.hidden, inputs.rope
        if segment.shift is not None:
            rope = self._once(lambda: self._moved(segment, hidden), inputs.rope, segment.layer, hidden.device)
        window = sliding_window(self.decoder.layers[number])
        if window is not None and window >= self.total:
            window = None
        mask = self._once(lambda: self._mask(number, segment, hidden, window), segment, window, hidden.device)
        return Inputs(hidden, rope, mask, None)

    def _moved(self, segment: Segment, hidden: Tensor) -> Any:
        if self.position_ids is None or segment.shift is None:
            raise ValueError("positions='compact' needs the positions of every step; give position_ids")
        moved = self.position_ids.to(hidden.device) - segment.shift.to(hidden.device)
        return self.decoder.rotary_emb(hidden, position_ids=moved)

    def _mask(self, number: int, segment: Segment, hidden: Tensor, window: int | None) -> Any:
        device, length = hidden.device, self.total - self.prompt
        if self.answered is None:
            grown = torch.ones(len(hidden), length, dtype=torch.bool, device=device)
        else:
            grown = self.answered[:, self.prompt :].bool().to(device)
        visible = torch.cat([segment.visible.to(device), grown], dim=1)
        size = segment.size
        if size is not None:
            size = nn.functional.pad(size.to(device), (0, length), value=1.0)
        if window is None or self.cache is None:
            return plain_mask(self.config, number, hidden, visible, self.cache, size)
        new = torch.arange(self.prompt, self.total, device=device)
        keys = torch.cat([segment.origin.to(device), new.expand(len(hidden), -1)], dim=1)
        shown, gone = HeldRows(self.cache).get_mask_sizes(hidden.shape[1], number)
        columns = slice(gone, gone + shown)
        mask = window_mask(self.config, new[-hidden.shape[1] :], keys[:, columns], visible[:, columns], window, hidden)
        return mask if size is None else mask + size[:, columns].log().to(mask)[:, None, None]

"""One pass through the layers of any decoder, as its host drives it.

Shapes: B batch, S sequence, D width, d width of a head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from llava.reduction import Ledger
from llava.reduction.evidence.attention import Rope

from .state import PassRecord, cache_keyword


class Decoder(Protocol):
    """What the engine uses of a host's decoder."""

    layers: nn.ModuleList
    rotary_emb: nn.Module
    norm: nn.Module


@dataclass
class Inputs:
    """What a layer is given: hidden states (B, S, D), cosines and sines (B or 1, S, d), mask, positions."""

    hidden: Tensor
    rope: Rope
    mask: Any
    position_ids: Tensor | None


class Pass:
    """One pass through the layers of a decoder, driven by its host: ``before`` every layer, ``finish`` at the end."""

    ledger: Ledger | None = None

    def __init__(self, decoder: Decoder, config: Any, cache: Cache | None):
        self.decoder, self.config, self.cache = decoder, config, cache
        self.record = PassRecord()

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """What layer ``number`` is given in place of ``inputs``."""
        raise NotImplementedError

    def finish(self) -> None:
        """Leave on the cache what later steps need."""

    def _mask(self, number: int, hidden: Tensor, visible: Tensor, size: Tensor | None = None) -> Any:
        """The attention mask of a layer whose cached and new keys may be seen where ``visible`` (B, keys) says so.

        ``size`` (B, keys): how many tokens each key stands for, whose logarithm its logits gain (proportional attention,
        arXiv 2210.09461). No positions are handed over: gaps in them would be read as the borders of packed sequences.
        Raises ValueError for sizes under an attention backend that takes no mask of numbers.
        """
        backend = self.config._attn_implementation
        if size is not None and backend not in ("sdpa", "eager"):
            raise ValueError(
                f"attn_implementation={backend!r} cannot weigh merged tokens by their sizes; use 'sdpa', or the method's"
                " option without sizes"
            )
        mask: Any = create_causal_mask(
            config=self.config if size is None else eager(self.config),
            inputs_embeds=hidden,
            attention_mask=visible,
            position_ids=None,
            layer_idx=number,
            **cache_keyword(self.cache),
        )
        return mask if size is None else mask + size.log().to(mask)[:, None, None]


def both(rope: Rope, change: Callable[[Tensor], Tensor]) -> Rope:
    """Cosines and sines, each changed in the same way."""
    cos, sin = rope
    return change(cos), change(sin)


def eager(config: Any) -> Any:
    """A copy of a config whose attention is the eager one, which alone returns its weights."""
    copied = copy.copy(config)
    copied._attn_implementation = "eager"
    return copied


def with_config(layer: nn.Module, config: Any) -> nn.Module:
    """A decoder layer that shares weights and hooks with ``layer`` and computes its attention as ``config`` says."""
    twin = copy.copy(layer)
    attention: Any = copy.copy(layer.self_attn)
    attention.config = config
    twin._modules = {**layer._modules, "self_attn": attention}
    return twin

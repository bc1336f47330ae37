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

from llava.reduction import Ledger
from llava.reduction.evidence.attention import Rope

from .state import PassRecord


class Decoder(Protocol):
    """What the engine uses of a host's decoder."""

    layers: nn.ModuleList
    rotary_emb: nn.Module
    norm: nn.Module


@dataclass
class Inputs:
    """What a layer is given: hidden states (B, S', D), cosines and sines (B or 1, S, d), mask, positions.

    The host computes all but the hidden states for the whole sequence, once for all layers of a kind.
    """

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
        self._made: dict[tuple, tuple[Any, Any]] = {}

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """What layer ``number`` is given in place of ``inputs``: the host's own, with the hidden states of the layer before."""
        raise NotImplementedError

    def finish(self) -> None:
        """Leave on the cache what later steps need."""

    def _once(self, make: Callable[[], Any], about: Any, *key: Any) -> Any:
        """What ``make`` gives, made once for an object of the host's and a key: layers share masks and embeddings."""
        known = self._made.get((id(about), *key))
        if known is None:
            known = self._made[(id(about), *key)] = about, make()
        return known[1]


def both(rope: Rope, change: Callable[[Tensor], Tensor]) -> Rope:
    """Cosines and sines, each changed in the same way."""
    cos, sin = rope
    return change(cos), change(sin)


def with_config(layer: nn.Module, config: Any) -> nn.Module:
    """A decoder layer that shares weights and hooks with ``layer`` and computes its attention as ``config`` says."""
    twin = copy.copy(layer)
    attention: Any = copy.copy(layer.self_attn)
    attention.config = config
    twin._modules = {**layer._modules, "self_attn": attention}
    return twin

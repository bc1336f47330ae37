"""What a reduced prefill leaves on the cache for the steps that follow, and what it did.

Shapes: B batch, S' the keys that are left.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from llava.reduction import Ledger, Record

# transformers 5.24 renamed the cache in every forward, mask and output
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"

# The attribute of a cache under which its CacheState lies
STATE = "reduction"


def cache_keyword(cache: Any) -> dict[str, Any]:
    """The cache as the keyword that transformers gives it."""
    return {CACHE: cache}


def eager(config: Any) -> Any:
    """A copy of a config whose attention is the eager one, which alone returns its weights."""
    copied = copy.copy(config)
    copied._attn_implementation = "eager"
    return copied


class HeldRows:
    """A cache that is asked how many rows each layer really holds, whatever it says to its host."""

    def __init__(self, cache: Cache):
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Rows that a layer holds."""
        return Cache.get_seq_length(self._cache, *args, **kwargs)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Where a layer's next row begins."""
        return Cache.get_seq_length(self._cache, layer_idx)

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Keys that a layer shows to new queries, and how many have left a window."""
        return Cache.get_mask_sizes(self._cache, *args, **kwargs)


@dataclass
class Segment:
    """Layers from ``layer`` on, as a prefill left them.

    Which cached keys may be seen (B, S'), where they stood in the prompt (B, S'), how far positions moved (B, 1), how many
    tokens each key stands for (B, S').
    """

    layer: int
    visible: Tensor
    origin: Tensor
    shift: Tensor | None
    size: Tensor | None = None


@dataclass
class CacheState:
    """What decoding needs to know about a reduced prefill. It lives on the cache, so generations cannot mix.

    ``prompt``: positions of the unreduced prompt. ``kept``: what a host remembers of a prompt besides its cache.
    """

    prompt: int
    segments: list[Segment]
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass
class PassRecord:
    """What the last prefill did: a record for every stage, and the ledger with which each layer was entered."""

    trace: list[Record] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)

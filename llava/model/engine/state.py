"""What a reduced prefill leaves on the cache for the steps that follow, and what it did.

Shapes: B batch, S' the keys that are left.
"""

from __future__ import annotations

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


def cache_keyword(cache: Cache | None) -> dict[str, Any]:
    """The cache as the keyword that transformers gives it."""
    return {CACHE: cache}


@dataclass
class Segment:
    """Layers from ``layer`` on, as a prefill left them.

    Which cached keys may be seen (B, S'), how far positions moved (B, 1), how many tokens each key stands for (B, S').
    """

    layer: int
    visible: Tensor
    shift: Tensor | None
    size: Tensor | None = None


@dataclass
class CacheState:
    """What decoding needs to know about a reduced prefill. It lives on the cache, so generations cannot mix."""

    prompt: int
    segments: list[Segment]


@dataclass
class PassRecord:
    """What the last prefill did: a record for every stage, and the ledger with which each layer was entered."""

    trace: list[Record] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)

"""Attention masks of layers that hold other rows than their host believes.

Shapes: B batch, S sequence, S' the rows that are left, q new rows, k keys.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from .state import HeldRows, cache_keyword, eager


def plain_mask(
    config: Any, number: int, hidden: Tensor, visible: Tensor, cache: Cache | None, size: Tensor | None = None
) -> Any:
    """The causal mask of layer ``number`` whose cached and new keys may be seen where ``visible`` (B, k) says so.

    ``size`` (B, k): how many tokens each key stands for, whose logarithm its logits gain (proportional attention,
    arXiv 2210.09461). No positions are handed over: gaps in them would be read as the borders of packed sequences.
    Raises ValueError for sizes under an attention backend that takes no additive mask.
    """
    if size is not None:
        _check_sizes(config)
    mask: Any = create_causal_mask(
        config=config if size is None else eager(config),
        inputs_embeds=hidden,
        attention_mask=visible,
        position_ids=None,
        layer_idx=number,
        **cache_keyword(None if cache is None else HeldRows(cache)),
    )
    return mask if size is None else mask + size.log().to(mask)[:, None, None]


def gathered_mask(given: Tensor, origin: Tensor, visible: Tensor, size: Tensor | None, config: Any) -> Tensor:
    """The rows and columns of a host's mask (B or 1, 1, S, S) that are left, ``origin`` (B, S'), without hidden keys.

    Windows keep the distances of the unreduced sequence, and pictures that see both ways still do.
    """
    batch, left = origin.shape
    rows = given.expand(batch, -1, -1, -1).gather(2, origin[:, None, :, None].expand(-1, 1, -1, given.shape[-1]))
    mask = rows.gather(3, origin[:, None, None].expand(-1, 1, left, -1))  # (B, 1, S', S')
    mask = mask & visible[:, None, None] if mask.dtype == torch.bool else _closed(mask, ~visible[:, None, None])
    return mask if size is None else _weighed(mask, size, config, visible)


def window_mask(config: Any, query: Tensor, key: Tensor, visible: Tensor, window: int, hidden: Tensor) -> Tensor:
    """The mask (B, 1, q, k) of a sliding window in the distances of the unreduced sequence.

    query (q,) and key (B, k): where each row stood there; visible (B, k).
    """
    apart = query[None, :, None] - key[:, None]  # (B, q, k)
    allowed = ((apart >= 0) & (apart < window) & visible[:, None])[:, None]
    if config._attn_implementation == "sdpa":
        return allowed
    return _closed(torch.zeros_like(allowed, dtype=hidden.dtype), ~allowed)


_WINDOWS: weakref.WeakKeyDictionary[Any, int | None] = (
    weakref.WeakKeyDictionary()
)  # asked for every layer of every step


def sliding_window(layer: Any) -> int | None:
    """How many positions back a decoder layer sees, itself included; None for all."""
    if layer not in _WINDOWS:
        _WINDOWS[layer] = _window(layer.self_attn)
    return _WINDOWS[layer]


def _window(attention: Any) -> int | None:
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    config, number = attention.config, attention.layer_idx
    types = getattr(config, "layer_types", None)
    if (
        types is not None
        and types[number] != "sliding_attention"
        or getattr(config, "use_sliding_window", True) is False
    ):
        return None
    return getattr(config, "sliding_window", None)


def as_allowed(mask: Tensor) -> Tensor:
    """An additive mask as a boolean one of what may be seen."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _weighed(mask: Tensor, size: Tensor, config: Any, visible: Tensor) -> Tensor:
    _check_sizes(config)
    if mask.dtype == torch.bool:
        mask = _closed(torch.zeros_like(mask, dtype=torch.float32), ~mask)
    return mask + size.log().to(mask)[:, None, None]


def _closed(mask: Tensor, closed: Tensor) -> Tensor:
    return mask.masked_fill(closed, torch.finfo(mask.dtype).min)


def _check_sizes(config: Any) -> None:
    backend = config._attn_implementation
    if backend not in ("sdpa", "eager"):
        raise ValueError(
            f"attn_implementation={backend!r} cannot weigh merged tokens by their sizes; use 'sdpa', or the method's"
            " option without sizes"
        )

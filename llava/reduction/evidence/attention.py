"""Rows of a decoder layer's attention, without the map of all rows and whatever the attention backend.

Shapes: B batch, S sequence, H heads, R query rows, D width, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .reading import Projections, read, weights

Rope = tuple[Tensor, Tensor]


def layer_keys(layer: Any, entered: Tensor, rope: Rope | None) -> Tensor:
    """The keys (B, H_kv, S, d) of a decoder layer, from what went into it; rotated where ``rope`` is given."""
    return _read(layer, "k", entered, rope).keys


def layer_queries(layer: Any, entered: Tensor) -> Tensor:
    """The queries (B, H, S, d) of a decoder layer, from what went into it, before the rotary embedding."""
    return _read(layer, "q", entered, None).queries


def attention_rows(
    layer: Any,
    entered: Tensor,
    rope: Rope | None,
    rows: Tensor,
    visible: Tensor,
    keys: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """A few rows of a decoder layer's attention.

    ``layer`` is a decoder layer of any family that transformers writes with ``self_attn`` (biases, norms on heads, fused
    projections, soft caps are its own), ``entered`` (B, S, D) what went into it, ``rope`` its cosines and sines (B, S, d),
    None for queries without positions, ``rows`` (B, R) the columns whose queries are wanted, ``visible`` (B, S) which keys
    may be seen, ``keys`` (B, H_kv, S, d) the layer's keys, from its cache or ``layer_keys``. ``mask`` (B or 1, S, S): what
    each row may see where that is not all before it (windows, pictures that see both ways). Returns (B, H, R, S) in float32.
    Cost: R query projections and R x S products per head; 0.2-0.4 % of a layer for one row. Raises ValueError for a
    layer whose attention cannot be read.
    """
    batch, length, width = entered.shape
    picked = rows[..., None]  # (B, R, 1)
    if rope is not None:
        cos, sin = (part.expand(batch, -1, -1).gather(1, picked.expand(-1, -1, part.shape[-1])) for part in rope)
        rope = cos, sin
    made = _read(layer, "q", entered.gather(1, picked.expand(-1, -1, width)), rope)
    if mask is None:
        seen = torch.arange(length, device=rows.device) <= picked  # (B, R, S)
    else:
        seen = mask.expand(batch, -1, -1).gather(1, picked.expand(-1, -1, length))
    return weights(made, keys, seen & visible[:, None])


def _read(layer: Any, wanted: Any, hidden: Tensor, rope: Rope | None) -> Projections:
    """Queries and keys of rows (B, R, D) of a decoder layer's input; without ``rope`` they are not rotated."""
    attention = layer.self_attn
    if rope is None:
        width = attention.head_dim
        rope = hidden.new_ones(1, hidden.shape[1], width), hidden.new_zeros(1, hidden.shape[1], width)
    # Families without a norm before the attention have their norms after it.
    norm = getattr(layer, "input_layernorm", None)
    states = hidden if norm is None else norm(hidden)
    return read(attention, wanted, hidden_states=states, position_embeddings=rope, attention_mask=None)[0]


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, H, S, d) by cosines and sines (B, S, d)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]

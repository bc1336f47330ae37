"""Rows of a decoder layer's attention, without the map of all rows and whatever the attention backend.

Shapes: B batch, S sequence, H heads, R query rows, D width, d width of a head.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Rope = tuple[Tensor, Tensor]


def layer_keys(layer: Any, entered: Tensor, rope: Rope | None) -> Tensor:
    """The keys (B, H_kv, S, d) of a decoder layer, from what went into it; rotated where ``rope`` is given."""
    keys = _heads(layer, "k", entered)
    return keys if rope is None else rotate(keys, *rope)


def layer_queries(layer: Any, entered: Tensor) -> Tensor:
    """The queries (B, H, S, d) of a decoder layer, from what went into it, before the rotary embedding."""
    return _heads(layer, "q", entered)


def attention_rows(
    layer: Any,
    entered: Tensor,
    rope: Rope | None,
    rows: Tensor,
    visible: Tensor,
    keys: Tensor,
) -> Tensor:
    """A few rows of a decoder layer's attention.

    ``layer`` is a decoder layer of Llama's kind (Mistral, Qwen2, Qwen3: biases and q/k norms are respected), ``entered``
    (B, S, D) what went into it, ``rope`` its cosines and sines (B, S, d), None for queries without positions,
    ``rows`` (B, R) the columns whose queries are wanted, ``visible`` (B, S) which keys may be seen, ``keys``
    (B, H_kv, S, d) the layer's keys, from its cache or ``layer_keys``. Returns (B, H, R, S) in float32, causal.
    Cost: R query projections and R x S products a head; 0.2-0.4 % of a layer for one row. Raises ValueError for a layer
    whose attention is more than that (soft caps, sliding windows).
    """
    batch, length, width = entered.shape
    picked = rows[..., None]  # (B, R, 1)
    queries = _heads(layer, "q", entered.gather(1, picked.expand(-1, -1, width)))  # (B, H, R, d)
    if rope is not None:
        turn = [part.expand(batch, -1, -1).gather(1, picked.expand(-1, -1, part.shape[-1])) for part in rope]
        queries = rotate(queries, *turn)
    shared = queries.unflatten(1, (keys.shape[1], -1))  # (B, H_kv, H / H_kv, R, d)
    logits = (shared @ keys[:, :, None].transpose(-1, -2)).flatten(1, 2) * layer.self_attn.scaling  # (B, H, R, S)
    seen = torch.arange(length, device=rows.device) <= picked  # (B, R, S)
    return logits.float().masked_fill(~(seen & visible[:, None])[:, None], -torch.inf).softmax(-1)


def _heads(layer: Any, which: Literal["q", "k"], hidden: Tensor) -> Tensor:
    """Queries or keys of (B, S, D) before rotation, split into heads: (B, H, S, d)."""
    attention = layer.self_attn
    unknown = [name for name in ("attn_logit_softcapping", "sliding_window") if getattr(attention, name, None)]
    if unknown or not hasattr(layer, "input_layernorm") or not hasattr(attention, f"{which}_proj"):
        raise ValueError(
            f"the attention of {type(layer).__name__} cannot be read row by row ({', '.join(unknown) or 'other projections'});"
            " use a plan that reads no attention, such as grid, pool or random"
        )
    projected = getattr(attention, f"{which}_proj")(layer.input_layernorm(hidden))
    heads = projected.unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, H, S, d) by cosines and sines (B, S, d)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]

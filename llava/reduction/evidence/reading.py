"""Queries and keys of a transformers layer, as its own attention makes them.

Projections, biases, norms on heads and the rotary embedding differ from family to family. Every family hands the result to
an attention function that transformers looks up by name; the function registered here keeps what it is handed and computes
nothing. So one way of reading serves every decoder and every tower.

Shapes: B batch, R rows, S sequence, H heads, D width, d width of a head.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "llava_reading"
_READ = "llava_read"  # the attribute of a module that is being read
_OUTPUTS = ("o_proj", "out_proj", "proj", "projection_layer", "dense")


@dataclass(frozen=True)
class Projections:
    """Queries (B, H, R, d) and keys (B, H_kv, R, d) after the rotary embedding; how their products become logits."""

    queries: Tensor
    keys: Tensor
    scaling: float
    softcap: float | None


def read(attention: nn.Module, wanted: Literal["q", "k", "both"], *given: Any, **named: Any) -> list[Projections]:
    """What an attention module makes of its arguments, one entry for each time it calls an attention function.

    ``wanted``: "q" or "k" skips the other projections where the family has separate ones. Neither values nor outputs are
    computed where their projections can be told by name. Raises ValueError for a module that calls no attention function,
    or whose attention has sinks.
    """
    unwanted = {"v_proj", *_OUTPUTS}
    if wanted != "both":
        unwanted.add("k_proj" if wanted == "q" else "q_proj")
    twin: Any = copy.copy(attention)
    twin.config = copy.copy(twin.config)
    twin.config._attn_implementation = NAME
    twin._modules = {name: _skipped(part) if name in unwanted else part for name, part in attention._modules.items()}
    seen: list[Projections] = []
    setattr(twin, _READ, seen)
    # This bypasses the hooks of the module, which belong to its own passes.
    type(attention).forward(twin, *given, **named)
    if not seen:
        raise ValueError(
            f"the attention of {type(attention).__name__} calls no attention function of transformers and cannot be read;"
            " use a plan that reads no attention, such as grid, pool or random"
        )
    return seen


def _skipped(part: nn.Module | None) -> nn.Module | None:
    width = getattr(part, "out_features", None)
    return _Skipped(width) if isinstance(width, int) else part


class _Skipped(nn.Module):
    """Stands for a projection that nobody needs."""

    def __init__(self, width: int):
        super().__init__()
        self.out_features = width

    def forward(self, states: Tensor) -> Tensor:
        return states.new_zeros(()).expand(*states.shape[:-1], self.out_features)


def _keep(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function that keeps queries and keys: the output (B, R, H, d) is empty space."""
    if kwargs.get("s_aux") is not None:
        raise ValueError(
            f"the attention of {type(module).__name__} has sinks, which are not read; use a plan that reads no attention"
        )
    seen: list[Projections] = getattr(module, _READ)
    seen.append(Projections(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling, softcap))
    empty = query.new_zeros(()).expand(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
    return empty, None


AttentionInterface.register(NAME, _keep)


def weights(read: Projections, keys: Tensor, allowed: Tensor) -> Tensor:
    """Attention (B, H, R, S) in float32 of queries to keys (B, H_kv, S, d), where ``allowed`` (B, R, S) says so."""
    shared = read.queries.unflatten(1, (keys.shape[1], -1))  # (B, H_kv, H / H_kv, R, d)
    logits = (shared @ keys[:, :, None].transpose(-1, -2)).flatten(1, 2) * read.scaling  # (B, H, R, S)
    if read.softcap is not None:
        logits = torch.tanh(logits / read.softcap) * read.softcap
    return logits.float().masked_fill(~allowed[:, None], -torch.inf).softmax(-1)

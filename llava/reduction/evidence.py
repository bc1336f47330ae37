"""What a reducer may look at, computed only when it asks.

Shapes: B batch, S sequence, G images of one length, N their tokens, H heads, R query rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor, nn

from .ledger import Group, Ledger


class Need(Enum):
    """A kind of evidence; a stage whose site cannot give it is refused before anything runs."""

    ATTENTION = "attention rows of the layer before"
    GRID = "the arrangement of the tokens on the picture"
    SEED = "a number for each picture"


SITE_GIVES = {
    "features": frozenset({Need.GRID, Need.SEED}),
    "prompt": frozenset({Need.GRID, Need.SEED}),
    "layer": frozenset({Need.ATTENTION, Need.SEED}),
}


@dataclass
class Evidence:
    """Evidence about G images of N tokens each; ``notes`` is where a reducer leaves what it found out.

    seeds (G,) one number per picture, the same alone and in a batch. grid (h, w) with h * w = N, or None.
    rows gives attention (G, H, R, N) of the query rows "last" (the last token), or raises where the site has none.
    """

    seeds: Tensor
    grid: tuple[int, int] | None = None
    rows: Callable[[str], Tensor] | None = None
    notes: dict = field(default_factory=dict)

    def attention(self, which: str = "last") -> Tensor:
        """Post-softmax attention of the layer before on the image's tokens: (G, H, R, N), float32."""
        return self.rows(which)


def attention_rows(
    layer: nn.Module,
    entered: Tensor,
    rope: tuple[Tensor, Tensor],
    rows: Tensor,
    visible: Tensor,
    keys: Tensor | None = None,
) -> Tensor:
    """A few rows of a decoder layer's attention, without the S x S map and whatever the attention backend.

    ``layer`` is a Llama decoder layer, ``entered`` (B, S, D) what went into it, ``rope`` its cosines and sines (B, S, d),
    ``rows`` (B, R) the columns whose queries are wanted, ``visible`` (B, S) which keys may be seen, ``keys``
    (B, H_kv, S, d) the layer's rotated keys where a cache holds them (else they are projected again). Returns
    (B, H, R, S) in float32, causal. Cost: R query projections and R x S products a head; 0.2-0.4 % of a layer for one
    row with cached keys.
    """
    attention, (cos, sin) = layer.self_attn, rope
    batch, length, _ = entered.shape
    head = attention.head_dim

    def project(linear: nn.Linear, hidden: Tensor) -> Tensor:
        return linear(layer.input_layernorm(hidden)).view(batch, hidden.shape[1], -1, head).transpose(1, 2)

    picked = rows[..., None]  # (B, R, 1)
    queries = project(attention.q_proj, entered.gather(1, picked.expand(-1, -1, entered.shape[-1])))  # (B, H, R, d)
    turn = [part.expand(batch, -1, -1).gather(1, picked.expand(-1, -1, head)) for part in (cos, sin)]  # (B, R, d)
    queries = _rotate(queries, *turn)
    if keys is None:
        keys = _rotate(project(attention.k_proj, entered), cos, sin)  # (B, H_kv, S, d)
    shared = queries.unflatten(1, (keys.shape[1], -1))  # (B, H_kv, H / H_kv, R, d)
    logits = (shared @ keys[:, :, None].transpose(-1, -2)).flatten(1, 2) * attention.scaling  # (B, H, R, S)
    seen = torch.arange(length, device=rows.device) <= picked  # (B, R, S)
    return logits.float().masked_fill(~(seen & visible[:, None])[:, None], -torch.inf).softmax(-1)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, H, S, d) by cosines and sines (B, S, d)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


class LayerEvidence:
    """Attention rows of one decoder layer, each kind computed once however many groups of images ask.

    ``tail`` counts the rows after the prompt (drafted or recomputed answer tokens); "last" is the prompt's last row.
    """

    def __init__(self, ledger: Ledger, compute: Callable[[Tensor], Tensor], seeds: Tensor, tail: int = 0):
        self.ledger, self.compute, self.seeds, self.tail = ledger, compute, seeds, tail
        self._kept: dict[str, Tensor] = {}

    def of(self, group: Group) -> Evidence:
        """The evidence about one group of images."""

        def rows(which: str) -> Tensor:
            if which not in self._kept:
                self._kept[which] = self.compute(self._columns(which))  # (B, H, R, S)
            whole = self._kept[which][group.rows]  # (G, H, R, S)
            return whole.gather(-1, group.columns[:, None, None].expand(-1, *whole.shape[1:3], -1))

        return Evidence(seeds=self.seeds[group.rows], rows=rows)

    def _columns(self, which: str) -> Tensor:
        if which == "last":
            return (self.ledger.last() - self.tail)[:, None]
        raise ValueError(f"which={which!r} names no query rows; choose 'last'")

"""What a prefill costs, from the rows that really entered every layer.

One multiply-add is two operations. Per decoder layer with n rows, width d, q width a = heads x head size, key/value share
g = kv heads / heads and gated FFN width m: ``2 (2 n d a (1 + g) + 2 n^2 a + 3 n d m)``. The output layer runs on the
last row. Sources of the constants: METHODS of the papers differ (two- against three-matrix FFN, MACs against FLOPs);
this is the count for Llama's gated FFN in FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from .apply import Record


@dataclass(frozen=True)
class Cost:
    """Cost of one row's prefill: floating-point operations by part, bytes of the KV cache, tokens layer by layer."""

    visual_per_layer: list[int]
    rows_per_layer: list[int]
    tower_flops: float
    projector_flops: float
    selector_flops: float
    llm_flops: float
    kv_bytes: int

    @property
    def visual_tokens(self) -> float:
        """Mean visual tokens over the decoder layers: the budget on which methods can be compared."""
        return sum(self.visual_per_layer) / len(self.visual_per_layer)

    @property
    def total_flops(self) -> float:
        return self.tower_flops + self.projector_flops + self.selector_flops + self.llm_flops


def decoder_flops(config, rows_per_layer: list[int]) -> float:
    """A Llama's prefill with these rows in each layer, the output layer on the last row."""
    d, m, head = config.hidden_size, config.intermediate_size, config.head_dim
    a, share = config.num_attention_heads * head, config.num_key_value_heads / config.num_attention_heads
    layers = sum(2 * (2 * n * d * a * (1 + share) + 2 * n * n * a + 3 * n * d * m) for n in rows_per_layer)
    return layers + 2 * d * config.vocab_size


def kv_bytes(config, rows_per_layer: list[int], bytes_per_number: int) -> int:
    """Keys and values that the prefill leaves in the cache."""
    return sum(rows_per_layer) * 2 * config.num_key_value_heads * config.head_dim * bytes_per_number


def tower_flops(config, images: int, patches: int, layers: int) -> float:
    """The first ``layers`` layers of a CLIP vision tower on ``images`` crops of so many patches."""
    d, m = config.hidden_size, config.intermediate_size
    n = patches + 1
    embed = 2 * patches * 3 * config.patch_size**2 * d
    return images * (embed + layers * 2 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m))


def linear_flops(module: nn.Module, rows: int) -> float:
    """Every matrix of a module applied to so many rows."""
    return 2.0 * rows * sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)


def selector_flops(trace: list[Record], rows: Iterable[int], width: int) -> float:
    """What the reducers of a trace computed for some of its rows."""
    return sum(
        record.stage.reducer.flops(
            int(record.ledger.row_counts()[row]), int(record.before[row]), int(record.after[row]), width
        )
        for record in trace
        for row in rows
        if int(record.before[row])
    )

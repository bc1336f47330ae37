"""What a prefill costs, from the rows that really entered every layer.

One multiply-add is two operations. Per decoder layer with n rows, width d, q width a = heads x head size, key/value share
g = kv heads / heads and gated FFN width m: ``2 (2 n d a (1 + g) + 2 n^2 a + 3 n d m)``. The output layer runs on the
last row. Papers count differently (two or three matrices in the FFN, multiply-adds or operations); this is the count for
Llama's gated FFN, in operations. Sorting, norms and other element-wise work is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
        """All parts together."""
        return self.tower_flops + self.projector_flops + self.selector_flops + self.llm_flops


def head_size(config: Any) -> int:
    """Numbers of one attention head, where a config does not say it too."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def decoder_flops(config: Any, rows_per_layer: list[int]) -> float:
    """A Llama's prefill with these rows in each layer, the output layer on the last row."""
    d, m, head = config.hidden_size, config.intermediate_size, head_size(config)
    a, share = config.num_attention_heads * head, config.num_key_value_heads / config.num_attention_heads
    layers = sum(2 * (2 * n * d * a * (1 + share) + 2 * n * n * a + 3 * n * d * m) for n in rows_per_layer)
    return layers + 2 * d * config.vocab_size


def kv_bytes(config: Any, rows_per_layer: list[int], bytes_per_number: int) -> int:
    """Keys and values that the prefill leaves in the cache."""
    return sum(rows_per_layer) * 2 * config.num_key_value_heads * head_size(config) * bytes_per_number


def tower_flops(config: Any, images: int, rows: list[int], prefix: int = 1, mlp_weights: int | None = None) -> float:
    """A vision tower on ``images`` crops, whose layers compute so many rows each.

    prefix: how many of the rows are no patches, as the class token. mlp_weights: numbers in the matrices of a layer's
    feed-forward; None: two matrices of ``intermediate_size``.
    """
    if not rows:
        return 0.0
    d = config.hidden_size
    mlp = 2 * d * config.intermediate_size if mlp_weights is None else mlp_weights
    embed = 2 * (rows[0] - prefix) * 3 * config.patch_size**2 * d
    return images * (embed + sum(2 * (4 * n * d * d + 2 * n * n * d + n * mlp) for n in rows))


def linear_flops(module: nn.Module, rows: int) -> float:
    """Every matrix of a module applied to so many rows."""
    return 2.0 * rows * sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)


def selector_flops(trace: list[Record], rows: Iterable[int], width: int) -> float:
    """What the reducers of a trace computed for some of its rows, image by image."""
    return sum(
        record.stage.reducer.flops(image.rows, image.tokens, image.kept, width, image.text)
        for record in trace
        for row in rows
        for image in images_of(record, row)
        if record.stage.keep != 0
    )


@dataclass(frozen=True)
class ImageCount:
    """One image as a stage met it: rows of its sequence, its tokens, those kept, rows of text after it."""

    rows: int
    tokens: int
    kept: int
    text: int


def images_of(record: Record, row: int) -> list[ImageCount]:
    """The images of one row of a record that any token had come of."""
    ledger, counts = record.ledger, []
    visual = ledger.visual[row] * ledger.visible[row]
    text = ledger.valid[row] & (ledger.visual[row] == 0)
    for image in visual.unique().tolist():
        if image:
            here = visual == image
            after = int(text[int(here.nonzero().max()) :].sum())
            counts.append(
                ImageCount(int(ledger.valid[row].sum()), int(here.sum()), int((record.chosen[row] & here).sum()), after)
            )
    return counts

"""What a prefill costs, from the rows that really entered every layer.

One multiply-add is two operations. Per decoder layer with n rows, width d, q width a = heads x head size, key/value share
g = kv heads / heads and gated FFN width m: ``2 (2 n d a (1 + g) + 2 n^2 a + 3 n d m)``. Attention counts as n x n, causal or
not and whatever the window, which is what a masked product computes. The output layer runs on the last row; that it may
share its weights with the embedding changes nothing. Papers count differently (two or three matrices in the FFN,
multiply-adds or operations); this is the count for a gated FFN, in operations. Sorting, norms (also of queries and keys),
rotations and other element-wise work are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .record import Record


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


def layer_flops(
    rows: int, width: int, inner: int, mlp_weights: int, keys: float | None = None, share: float = 1.0
) -> float:
    """One transformer layer on ``rows`` rows: four projections, attention, feed-forward.

    inner: width of the queries. mlp_weights: numbers in the matrices of the feed-forward. keys: how many each row sees, on
    average; None: as many as there are rows. share: the keys' and values' width as a share of the queries'.
    """
    seen = rows if keys is None else keys
    return 2 * (2 * rows * width * inner * (1 + share) + 2 * rows * seen * inner + rows * mlp_weights)


def head_size(config: Any) -> int:
    """Numbers of one attention head, where a config does not say it too."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def layer_windows(config: Any) -> list[int | None]:
    """For each decoder layer how many positions its attention sees; None where it sees all."""
    window, layers = getattr(config, "sliding_window", None), config.num_hidden_layers
    if not window or not getattr(config, "use_sliding_window", True):
        return [None] * layers
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def cached_rows(config: Any, rows_per_layer: list[int]) -> list[int]:
    """Rows that each layer's cache holds after a prefill; a layer with a window of w keeps w - 1."""
    windows = layer_windows(config)
    return [rows if window is None else min(rows, window - 1) for rows, window in zip(rows_per_layer, windows)]


def _decoder_layer(config: Any, rows: int, keys: int) -> float:
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    inner, share = config.num_attention_heads * head_size(config), kv_heads / config.num_attention_heads
    return layer_flops(rows, config.hidden_size, inner, 3 * config.hidden_size * config.intermediate_size, keys, share)


def decoder_flops(config: Any, rows_per_layer: list[int]) -> float:
    """A decoder's prefill with these rows in each layer, the output layer on the last row.

    config: a Llama's, or that of a decoder which computes the same products (Mistral, Qwen, Gemma).
    """
    layers = sum(_decoder_layer(config, rows, rows) for rows in rows_per_layer)
    return layers + 2 * config.hidden_size * config.vocab_size


def decode_flops(config: Any, rows_per_layer: list[int]) -> float:
    """The step for one new token after a prefill with these rows in each layer."""
    layers = sum(_decoder_layer(config, 1, cached + 1) for cached in cached_rows(config, rows_per_layer))
    return layers + 2 * config.hidden_size * config.vocab_size


def kv_bytes(config: Any, rows_per_layer: list[int], bytes_per_number: int) -> int:
    """Keys and values that the prefill leaves in the cache."""
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return sum(cached_rows(config, rows_per_layer)) * 2 * kv_heads * head_size(config) * bytes_per_number


def tower_flops(config: Any, images: int, rows: list[int], prefix: int = 1, mlp_weights: int | None = None) -> float:
    """A vision tower on ``images`` crops, whose layers compute ``rows`` rows.

    prefix: how many of the rows are not patches, such as the class token. mlp_weights: numbers in the matrices of a
    layer's feed-forward; None: two matrices of ``intermediate_size``.
    """
    if not rows:
        return 0.0
    d = config.hidden_size
    mlp = 2 * d * config.intermediate_size if mlp_weights is None else mlp_weights
    embed = 2 * (rows[0] - prefix) * 3 * config.patch_size**2 * d
    return images * (embed + sum(layer_flops(n, d, d, mlp) for n in rows))


def linear_flops(module: nn.Module, rows: int) -> float:
    """Every matrix of a module applied to ``rows`` rows."""
    return 2.0 * rows * sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)


@dataclass(frozen=True)
class Read:
    """A tower that stages may have read: the width of its rows, and for each row of a record the patches of each of its crops."""

    width: int
    patches: Sequence[Sequence[int]]


def selector_flops(trace: list[Record], rows: Iterable[int], width: int, read: Read | None = None) -> float:
    """What the reducers of a trace computed for some of its rows, image by image.

    ``read``: of the trace of a site that knows the tower, features or projected.
    """
    total = 0.0
    for record in trace:
        if record.stage.keep == 0:
            continue
        reducer = record.stage.reducer
        for row in rows:
            for image in images_of(record, row):
                total += reducer.flops(image.rows, image.tokens, image.kept, width, image.text)
                if read is not None:
                    total += sum(reducer.reading_flops(each, image.kept, read.width) for each in read.patches[row])
    return total


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

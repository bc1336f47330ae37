"""What the parts of a selection cost, in floating-point operations; a multiply-add is two. For ``Reducer.flops``.

tokens: of one image. patches: of one crop in the tower, whose width is its own. rows: of its sequence. width: of a row. The passes of CLIP's text tower are not counted: 0.15 % of a
prefill of LLaVA-1.5-7B.
"""

from __future__ import annotations

import math

SHARED = 3 / 4  # width of CLIP's shared space in its tower's, as in ViT-L: 768 of 1024


def cls_attention(tokens: int, width: int) -> float:
    """The class token's attention in a layer of the tower: keys of all rows, one query, their products."""
    return 2 * (tokens + 2) * width * width + 2 * (tokens + 1) * width


def mean_attention(patches: int, width: int) -> float:
    """The attention of all patches in a layer of the tower: their queries, keys of all rows, their products."""
    return 2 * (2 * patches + 1) * width * width + 2 * patches * (patches + 1) * width


def clip_patches(patches: int, width: int) -> float:
    """The patches in CLIP's shared space, and their products with one row of text there."""
    shared = SHARED * width
    return 2 * patches * shared * (width + 1)


def similarities(tokens: int, width: float, others: int | None = None) -> float:
    """Cosines of every token with every token, or with ``others``."""
    return 2.0 * tokens * (tokens if others is None else others) * width


def attention_rows(queries: float, rows: int, width: int, keys: bool = False) -> float:
    """Some rows of a decoder layer's attention; ``keys``: they are computed too, and not read from the cache."""
    return queries * (2 * width * width + 2 * rows * width) + (2 * rows * width * width if keys else 0)


def determinant(tokens: int, kept: int) -> float:
    """The picks of ``select.dpp``: one row of the Cholesky factor for each."""
    return float(kept * kept * tokens)


def coverage(tokens: int, kept: int) -> float:
    """The picks of ``select.facility_location``, which sums the rows that a pick has covered: some ln k times all of them."""
    return 2.0 * tokens * tokens * (1 + math.log(max(kept, 1)))

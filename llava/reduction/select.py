"""Selectors: which of N tokens to keep. Every one returns (G, k) indices, is deterministic, and breaks ties low."""

from __future__ import annotations

import torch
from torch import Tensor


def topk(score: Tensor, k: int) -> Tensor:
    """The k highest scores of (G, N), best first; of equal scores the lower index."""
    return score.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def random(seeds: Tensor, seed: int, tokens: int, k: int) -> Tensor:
    """k of ``tokens`` uniformly without replacement, drawn for each picture from its own number and ``seed``."""
    drawn = [
        torch.randperm(tokens, generator=torch.Generator().manual_seed((int(own) * 1_000_003 + seed) % 2**63))[:k]
        for own in seeds.tolist()
    ]
    return torch.stack(drawn).to(seeds.device)


def stride(tokens: int, k: int) -> Tensor:
    """k indices at equal distances from the first to the last: (k,)."""
    return (
        torch.linspace(0, tokens - 1, k, dtype=torch.float64).round().long() if k > 1 else torch.full((k,), tokens // 2)
    )


def bands(height: int, width: int, k: int) -> list[tuple[range, range]]:
    """Cut a height x width grid into exactly k cells, as square and as equal as whole patches allow, in raster order.

    The rule: about sqrt(k h / w) bands of rows, the cells shared among them as evenly as possible (bands may differ by
    one cell), every band cut evenly into columns. k = s * s on a square grid gives the s x s pooling cells.
    """
    if not k:
        return []
    count = min(height, max(1, round((k * height / width) ** 0.5), -(-k // width)))

    def cut(total: int, parts: int) -> list[range]:
        edges = [part * total // parts for part in range(parts + 1)]
        return [range(a, b) for a, b in zip(edges, edges[1:])]

    shares = [len(share) for share in cut(k, count)]
    return [(rows, columns) for rows, share in zip(cut(height, count), shares) for columns in cut(width, share)]


def grid(height: int, width: int, k: int) -> Tensor:
    """The centre of each of the k cells of ``bands``: (k,) raster indices."""
    return torch.tensor(
        [rows[len(rows) // 2] * width + columns[len(columns) // 2] for rows, columns in bands(height, width, k)],
        dtype=torch.long,
    )

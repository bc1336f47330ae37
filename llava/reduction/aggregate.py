"""Aggregators: what the kept tokens become. (G, N, D) and (G, k) indices to (G, k, D)."""

from __future__ import annotations

import torch
from torch import Tensor

from .select import bands


def gather(tokens: Tensor, kept: Tensor) -> Tensor:
    """The kept tokens as they are: hard pruning."""
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))


def mean_cells(tokens: Tensor, height: int, width: int, k: int) -> Tensor:
    """The mean of each of the k cells of ``select.bands``."""
    grid = tokens.unflatten(1, (height, width))
    cells = [grid[:, r.start : r.stop, c.start : c.stop].flatten(1, 2).mean(1) for r, c in bands(height, width, k)]
    return torch.stack(cells, dim=1) if cells else tokens[:, :0]

"""Clusters of tokens by density peaks: centres are dense and far from anything denser (Rodriguez and Laio 2014).

Shapes: G images, x rows to cluster, c clusters, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .select import topk


def distances(rows: Tensor) -> Tensor:
    """Euclidean distances divided by sqrt(D), in float32, zero on the diagonal: (G, x, x)."""
    rows = rows.float()
    far = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return far / rows.shape[-1] ** 0.5


def density_peaks(far: Tensor, count: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Centres (G, c), the clearest first, and the cluster (G, x) of every row, given the distances (G, x, x).

    Density is exp(- mean of the ``count`` smallest squared distances, its own among them); a row's separation is the distance
    to the nearest denser row, of the densest the largest distance there is. Centres have the highest density * separation;
    every row joins the nearest centre, a centre itself. ``noise`` (G, x) is added to the densities: to tell equal ones apart, as
    the released code of SparseVLM does; without it of equal rows the lower index is a centre first.
    """
    nearest = far.topk(min(count, far.shape[-1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()  # (G, x)
    if noise is not None:
        density = density + noise
    denser = density[:, None] > density[..., None]  # (G, x, x): column denser than row
    largest = far.flatten(1).amax(1)[:, None, None]
    separation = torch.where(denser, far, largest).amin(-1)
    centres = topk(density * separation, count)
    number = torch.arange(count, device=far.device).expand_as(centres)
    nearest = far.gather(1, centres[..., None].expand(-1, -1, far.shape[-1])).argmin(1)  # (G, x)
    return centres, nearest.scatter(1, centres, number)


def means(rows: Tensor, member: Tensor, count: int) -> Tensor:
    """The mean of the rows (G, x, D) of each of ``count`` clusters, none of them empty: (G, c, D), float32."""
    belongs = one_hot(member, count).float()  # (G, x, c)
    return belongs.transpose(1, 2) @ rows.float() / belongs.sum(1)[..., None]

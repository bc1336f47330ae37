"""Clusters of tokens by density peaks: centres are dense and far from anything denser (Rodriguez and Laio 2014).

Shapes: G images, x rows to cluster, c clusters, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .aggregate import gather
from .score import similarity
from .select import greedy, topk


def distances(rows: Tensor) -> Tensor:
    """Euclidean distances divided by sqrt(D), in float32, zero on the diagonal: (G, x, x)."""
    rows = rows.float()
    far = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return far / rows.shape[-1] ** 0.5


def density_peaks(far: Tensor, count: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Centres (G, c), the clearest first, and the cluster (G, x) of every row, given the distances (G, x, x).

    Density is exp(- mean of the ``count`` smallest squared distances, its own among them); a row's separation is the distance
    to the nearest denser row, for the densest, the largest distance there is. Centres have the highest density *
    separation; every row joins the nearest centre, a centre itself. ``noise`` (G, x) is added to the densities: to
    break ties, as the released code of SparseVLM does; without it, of equal rows the one with the lower index becomes a
    centre first.
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


def nearest_kept(rows: Tensor, kept: Tensor) -> Tensor:
    """Which of the kept rows (G, k) every row of (G, x, D) is most like by its cosine, a kept one itself: (G, x)."""
    number = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    return similarity(rows, gather(rows, kept)).argmax(-1).scatter(1, kept, number)


def means(rows: Tensor, member: Tensor, count: int) -> Tensor:
    """The mean of the rows (G, x, D) of each of ``count`` clusters, none of them empty: (G, c, D), float32."""
    belongs = one_hot(member, count).float()  # (G, x, c)
    return belongs.transpose(1, 2) @ rows.float() / belongs.sum(1)[..., None]


def bounded_peaks(far: Tensor, count: int, cutoff: Tensor) -> tuple[Tensor, Tensor]:
    """The densest tokens of which no two lie within a cut-off of one another, the densest first (PACT, arXiv 2504.08966).

    Given distances (G, x, x) and C cut-offs for each picture (G, C): ``count`` tokens (G, C, count), and which of them are such
    centres; where there are fewer, the densest of the others follow. The density of a row is sum_j exp(-far_ij / cutoff).
    Cost: C x^2 exponentials and C ``count`` rows of x comparisons; no matrix product.
    """
    images, tried = cutoff.shape
    least = torch.finfo(far.dtype).tiny
    density = torch.stack([(-far / one[:, None, None].clamp(min=least)).exp().sum(-1) for one in cutoff.unbind(1)], 1)
    density = density.flatten(0, 1)  # (G C, x)
    owner = torch.arange(images, device=far.device).repeat_interleave(tried)
    covered, central = torch.zeros_like(density, dtype=torch.bool), []

    def take(best: Tensor, step: int) -> Tensor:
        nonlocal covered
        central.append(~covered.gather(1, best[:, None]))
        covered = covered | (far[owner, best] <= cutoff.flatten()[:, None])
        return torch.where(covered, density - far.shape[-1] - 1, density)

    picked = greedy(density, count, take).unflatten(0, (images, tried))
    return picked, torch.cat(central, dim=1).unflatten(0, (images, tried))


def cutoff_for(far: Tensor, count: int, tried: int = 16, rounds: int = 2) -> Tensor:
    """The largest cut-off (G,) under which each picture has at least ``count`` centres of ``bounded_peaks``; 0 for none.

    Exact to ``tried`` ** -``rounds`` of the picture's largest distance: every round tries ``tried`` values at once,
    equally far apart.
    """
    step = far.flatten(1).amax(1, keepdim=True) / tried  # (G, 1)
    low = torch.zeros_like(step)
    for _ in range(rounds):
        cutoffs = low + step * torch.arange(tried, device=far.device)
        enough = bounded_peaks(far, count, cutoffs)[1].all(-1)
        low = torch.where(enough, cutoffs, low).amax(1, keepdim=True)
        step = step / tried
    return low[:, 0]

"""Selectors: which of N tokens to keep. Every one returns (G, k) indices, is deterministic, and breaks ties low.

Shapes: G images, N tokens, k kept. ``alike`` (G, N, N) is a similarity, 1 on the diagonal. Loops run over the k kept
tokens only, with all images at once and without asking the device for a number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from .score import first_equal

ROUNDS = 3  # of ``medoids``
COVER_NOISE = 1e-6  # of what a token would have covered alone: what is left below it is rounding
RANK_NOISE = 1e-5  # of a token's own kernel entry: what is left below it after k projections is rounding


def mixed(*numbers: int) -> int:
    """One number from several, as far from any other combination's as a hash: what two draws must not share.

    ``mixed(picture, crop)`` and ``mixed(picture, seed)`` are not sums, so a picture with the next seed is not the next
    picture with the same seed.
    """
    digest = hashlib.blake2b(":".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def topk(score: Tensor, k: int) -> Tensor:
    """The k highest scores of (G, N), best first; of equal scores the lower index."""
    return score.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def random(seeds: Tensor, seed: int, tokens: int, k: int) -> Tensor:
    """k of ``tokens`` uniformly without replacement, drawn for each picture from its own number and ``seed``."""
    drawn = [
        torch.randperm(tokens, generator=torch.Generator().manual_seed(mixed(picture, seed)))[:k]
        for picture in seeds.tolist()
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
    count = min(height, k, max(1, round((k * height / width) ** 0.5), -(-k // width)))

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


def greedy(gain: Tensor, k: int, take: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The k tokens that are best one after another, in the order of picking: the loop of every greedy selector.

    ``gain`` (G, N) is what each token adds first; ``take(best (G,), step)`` is told which were picked and gives the gains of
    the next step. A token is picked once; ties go to the lower index. Nothing is asked of the device.
    """
    picked, taken = [], torch.zeros_like(gain, dtype=torch.bool)
    for step in range(min(k, gain.shape[1])):
        best = gain.masked_fill(taken, -torch.inf).argmax(1)
        picked.append(best)
        taken = taken.scatter(1, best[:, None], True)
        gain = take(best, step)
    return torch.stack(picked, dim=1) if picked else gain.new_empty(len(gain), 0, dtype=torch.long)


def max_min(alike: Tensor, k: int, first: Tensor, weight: Tensor | None = None) -> Tensor:
    """Tokens as far from one another as can be: each step takes argmax weight_i min_{j picked} (1 - alike_ij).

    ``first`` (G, N) decides the first, its argmax; ``weight`` (G, N) is one where it is not given. k N comparisons.
    """
    nearest = torch.full_like(alike[:, 0], -torch.inf)  # the similarity to the nearest of those picked

    def take(best: Tensor, step: int) -> Tensor:
        nonlocal nearest
        nearest = torch.maximum(nearest, row_of(alike, best))
        return 1 - nearest if weight is None else weight * (1 - nearest)

    return greedy(first.to(alike), k, take)


def fps(alike: Tensor, k: int, start: int | None = None) -> Tensor:
    """Farthest point sampling under the distance 1 - alike: ``max_min`` from the token of highest degree, or ``start``."""
    first = alike.sum(-1)
    if start is not None:
        first = torch.zeros_like(first)
        first[:, start] = 1
    return max_min(alike, k, first)


def suppress(blocks: Tensor) -> Tensor:
    """Non-maximum suppression: which tokens stay (G, N) bool where ``blocks`` (G, N, N) says who removes whom, best first.

    Token i goes if a token j < i stays and blocks_ij. All are decided at once, in rounds until nothing changes, as many
    as the longest chain of tokens that remove one another; each round asks the device whether anything has.
    """
    earlier = blocks.tril(-1)
    stays = torch.ones_like(blocks[..., 0])
    for _ in range(blocks.shape[1]):
        before, stays = stays, ~(earlier & stays[:, None]).any(-1)
        if torch.equal(before, stays):
            break
    return stays


def isolation(alike: Tensor) -> Tensor:
    """How far each token is from the one most like it (G, N): DivPrune begins with the highest."""
    return 1 - alike.topk(min(2, alike.shape[1]), dim=-1).values[..., -1]


def facility_location(
    alike: Tensor, k: int, rows: Tensor | None = None, candidates: Tensor | None = None, power: float = 1.0
) -> Tensor:
    """Tokens that stand for all, in the order of picking: each step takes the one that adds most to the coverage.

    Coverage is sum_i rows_i max(0, max_{j picked} alike_ij), and a token's gain is multiplied by candidates_j ** power;
    ``rows`` and ``candidates`` (G, N) are one where they are not given. A pick changes the coverage of a few tokens only: on a
    CPU the gains are updated by those alone, N^2 log k operations on average instead of k N^2; on a GPU all are summed,
    which asks the device nothing.
    """
    images, tokens, _ = alike.shape
    few = alike.device.type == "cpu"
    exact = alike.double() if few else alike  # differences of single numbers are exact: what ties on paper ties here
    cover, weight = exact.new_zeros(images, tokens), exact.new_ones(images, tokens) if rows is None else rows.to(exact)
    scale = 1 if candidates is None else candidates.to(exact) ** power
    summed = coverage_gain(exact, cover, weight)
    noise = COVER_NOISE * summed

    def take(best: Tensor, step: int) -> Tensor:
        nonlocal cover, summed
        after = torch.maximum(cover, row_of(exact.transpose(1, 2), best))
        if few:
            image, row = (after > cover).nonzero(as_tuple=True)
            seen = exact[image, row]  # (R, N)
            old, new = cover[image, row, None], after[image, row, None]
            lost = seen.clamp(min=old).sub_(old).sub_(seen.clamp_(min=new).sub_(new))
            share = torch.zeros(images, len(row), dtype=exact.dtype)
            share[image, torch.arange(len(row))] = weight[image, row]
            summed = summed - share @ lost
            summed = torch.where(summed > noise, summed, 0)
        else:
            summed = coverage_gain(exact, after, weight)
        cover = after
        return summed * scale

    return greedy(summed * scale, k, take)


def coverage_gain(alike: Tensor, cover: Tensor, weight: Tensor) -> Tensor:
    """How much each token would add to a coverage (G, N), tokens weighted: (G, N)."""
    return (weight[:, None] @ (alike - cover[..., None]).clamp_(min=0))[:, 0]


def connectivity(alike: Tensor, k: int) -> Tensor:
    """The k tokens of highest degree, the sum of their similarities to all."""
    return topk(alike.sum(-1), k)


def medoids(alike: Tensor, k: int, rounds: int = ROUNDS) -> Tensor:
    """Centres of k clusters: from ``connectivity``'s, each round assigns every token to the centre most like it and moves
    the centre to the member of highest degree within the cluster. A centre stays in its own cluster, so none is empty.
    """
    centres = connectivity(alike, k)
    if not k:
        return centres
    numbers = torch.arange(k, device=alike.device).expand_as(centres)
    same = first_equal(alike)[..., None].expand(-1, -1, k)  # a product of equal rows need not be equal
    for _ in range(rounds):
        to_centre = alike.gather(2, centres[:, None].expand(-1, alike.shape[1], -1))  # (G, N, k)
        cluster = to_centre.argmax(-1).scatter(1, centres, numbers)  # (G, N)
        member = torch.nn.functional.one_hot(cluster, k).to(alike.dtype)  # (G, N, k)
        within = (alike @ member).gather(1, same)  # (G, N, k)
        centres = within.masked_fill(member == 0, -torch.inf).argmax(1)
    return centres


def dpp(alike: Tensor, k: int, quality: Tensor | None = None) -> Tensor:
    """Greedy MAP of a determinantal point process with kernel q_i alike_ij q_j, in the order of picking.

    ``quality`` (G, N) is one where it is not given. Chen, Zhang and Zhou 2018 (arXiv:1709.05135), algorithm 1: a Cholesky
    row for each pick, k^2 N operations. Where no token adds volume any more (as many are picked as the features have
    dimensions) the lowest index that is left is taken.
    """
    images, tokens, _ = alike.shape
    kernel = alike if quality is None else quality[:, :, None] * alike * quality[:, None]
    gain = kernel.diagonal(dim1=1, dim2=2).clone()  # (G, N)
    noise = RANK_NOISE * gain
    rows = alike.new_zeros(images, min(k, tokens), tokens)

    def take(best: Tensor, step: int) -> Tensor:
        nonlocal gain
        at, before = best[:, None], rows[:, :step]  # (G, 1), (G, step, N)
        shared = (before.gather(2, at[:, None].expand(-1, step, 1)).transpose(1, 2) @ before)[:, 0]  # (G, N)
        left = gain.gather(1, at)  # (G, 1), zero where the volume is exhausted
        row = (row_of(kernel, best) - shared) / left.clamp(min=torch.finfo(left.dtype).tiny).sqrt()
        rows[:, step] = torch.where(left > 0, row, 0)
        gain = gain - rows[:, step].square()
        gain = torch.where(gain > noise, gain, 0)
        return gain

    return greedy(gain, k, take)


def relevant(score: Tensor, alike: Tensor, k: int, diversity: float) -> Tensor:
    """Greedy maximal marginal relevance, in the order of picking.

    Each step takes argmax (1 - diversity) score / max score - diversity max_{j picked} alike. Carbonell and Goldstein
    1998 (doi:10.1145/290941.291025); diversity 0 is ``topk``.
    """
    wanted = (1 - diversity) * score / score.amax(1, keepdim=True).clamp(min=torch.finfo(score.dtype).tiny)
    closest = torch.zeros_like(wanted)

    def take(best: Tensor, step: int) -> Tensor:
        nonlocal closest
        closest = torch.maximum(closest, row_of(alike, best))
        return wanted - diversity * closest

    return greedy(wanted, k, take)


def covering(alike: Tensor, picked: Tensor, cover: float, least: int) -> Tensor:
    """As many of ``picked`` (G, k), in their order, as make every token ``cover`` similar to one of them on average.

    Covered is mean_n max_{j picked} max(0, alike_nj); at least ``least`` and at most k stay. Returns (G, N) bool.
    """
    images, tokens, _ = alike.shape
    near = alike.gather(2, picked[:, None].expand(-1, tokens, -1)).clamp(min=0)  # (G, N, k)
    reached = near.cummax(-1).values.mean(1)  # (G, k)
    wanted = (reached < cover).sum(1, keepdim=True) + 1  # the first at which it is reached
    order = torch.arange(picked.shape[1], device=picked.device)
    mask = torch.zeros(images, tokens, dtype=torch.bool, device=picked.device)
    return mask.scatter(1, picked, order < wanted.clamp(min=least))


def row_of(matrix: Tensor, index: Tensor) -> Tensor:
    """Row ``index`` (G,) of each (G, N, N) matrix: (G, N)."""
    return matrix[torch.arange(len(matrix), device=matrix.device), index]

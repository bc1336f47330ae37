from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ... import prices
from ...aggregate import Merged, gather
from ...checks import check_choice
from ...evidence import Evidence
from ...registry import get_method, register
from ...saliency import Saliency, check_saliency
from ...score import similarity
from ...select import topk
from ...stage import Reducer

Base = Literal["divprune", "holov", "vispruner"]


@register("restore")
class Restore(Reducer):
    """Keep half of the budget by another method, and merge all that it leaves into the other half.

    Paper: RESTORE (2026)   Site: projected   Needs: what the other method needs   Training: none

    ``base``: "divprune", "holov" or "vispruner", which keeps floor(k / 2) tokens. Of the rest density_i = sum_j cos_ij and
    distinct_i = 1 - max cos to a denser one (the densest: 2); the highest products of both are anchors, every other joins
    the anchor of the highest cosine, and each group becomes its mean, weighted by sizes. A group comes where its first
    member lay, has the position of its middle one (of an even number the lower), and the sum of its sizes, which adds log
    size to its logits as a key in every layer. tokens (G, N, D) -> (G, k, D) with sizes (G, k). ``saliency``: as in holov
    and vispruner.

    Accounting: tokens entering the language model, or after layer K.
    Cost: the other method and N^2 D for the similarities, both twice, and N k D / 2 for the merge.
    Differs from the authors' code: before the language model positions are numbered through. Our reading: density
    counts the rest alone, and of an odd budget the merged half is the larger.
    """

    sites = ("projected", "features", "prompt", "layer")
    default_layer = 2
    merges = True

    def __init__(self, base: Base = "divprune", saliency: Saliency = "cls"):
        super().__init__()
        check_choice("base", base, get_args(Base))
        check_saliency(saliency)
        if base == "divprune" and saliency != "cls":
            raise ValueError(f"saliency={saliency!r} has no meaning for base='divprune', which reads no attention")
        self.base, self.saliency = base, saliency
        self.selector = get_method(base)(**({} if base == "divprune" else {"saliency": saliency}))
        self.needs, self.tower_layers = self.selector.needs, self.selector.tower_layers

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        chosen, rest, member = self._groups(tokens, evidence, k)
        _, middle = _ends(rest, member, k - chosen.shape[1])
        return torch.cat([chosen, middle], dim=1)

    def _groups(self, tokens: Tensor, evidence: Evidence, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens that the other method keeps (G, b), the rest (G, R), and which of k - b groups each joins (G, R)."""
        chosen = self.selector.select(tokens, evidence, k // 2)
        rest = topk(torch.ones_like(tokens[..., 0]).scatter(1, chosen, 0), tokens.shape[1] - chosen.shape[1])
        alike = similarity(gather(tokens, rest))
        anchors = topk(_prominence(alike), k - chosen.shape[1])  # (G, c)
        nearest = alike.gather(2, anchors[:, None].expand(-1, rest.shape[1], -1)).argmax(-1)
        own = torch.arange(anchors.shape[1], device=anchors.device).expand_as(anchors)
        return chosen, rest, nearest.scatter(1, anchors, own)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor | Merged:
        if kept.shape[1] == tokens.shape[1]:
            return gather(tokens, kept)
        chosen, rest, member = self._groups(tokens, evidence, kept.shape[1])
        groups = kept.shape[1] - chosen.shape[1]
        first, middle = _ends(rest, member, groups)
        weight = (torch.ones_like(tokens[..., 0]) if evidence.sizes is None else evidence.sizes).float()
        belongs = one_hot(member, groups) * weight.gather(1, rest)[..., None]  # (G, R, c)
        size = belongs.sum(1)  # (G, c)
        merged = belongs.transpose(1, 2) @ gather(tokens, rest).float() / size[..., None]
        order = torch.cat([chosen, first], dim=1).argsort(dim=1)
        return Merged(
            gather(torch.cat([gather(tokens, chosen).float(), merged], dim=1), order).to(tokens.dtype),
            torch.cat([chosen, middle], dim=1).gather(1, order),
            torch.cat([weight.gather(1, chosen), size], dim=1).gather(1, order),
        )

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        rest = tokens - kept // 2
        twice = self.selector.flops(rows, tokens, kept // 2, width) + prices.similarities(rest, width)
        return 0.0 if kept >= tokens else 2 * twice + prices.similarities(rest, width, kept - kept // 2)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return self.selector.reading_flops(patches, kept // 2, width)


def _prominence(alike: Tensor) -> Tensor:
    """Density times distinctness of rows, given their cosines (G, R, R): (G, R). Of equal densities the lower index is denser."""
    density = alike.sum(-1)
    rank = topk(density, density.shape[1]).argsort(dim=1)  # (G, R)
    denser = rank[:, None] < rank[..., None]  # (G, R, R): column denser than row
    closest = alike.masked_fill(~denser, -1).amax(-1)
    return density * (1 - closest)


def _ends(rest: Tensor, member: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The first and the middle token of each group of the ascending tokens ``rest`` (G, R): (G, c) each."""
    count = one_hot(member, groups).sum(1)
    start = count.cumsum(1) - count
    ordered = rest.gather(1, member.argsort(dim=1, stable=True))
    return ordered.gather(1, start), ordered.gather(1, start + (count - 1) // 2)

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import is_number, shown
from ...registry import register
from ...score import outliers
from ...select import topk
from .prumerge import Mode, PruMerge


@register("prumerge_plus")
class PruMergePlus(PruMerge):
    """Keep the tokens that the class token singles out and others at equal distances, and merge the rest as PruMerge does.

    Paper: https://arxiv.org/abs/2403.15388   Site: features   Needs: class token's query, all keys of the last layer   Training: none

    Of the k - 1 tokens that stay a quarter are the highest of PruMerge's attention, and the others lie at equal distances among
    the rest, in raster order. ``adaptive``: with r the share of outliers, every max(1, floor(floor(1/r) / 3))-th token is added, at
    most the budget in all. What stays is merged, and one more token added, as in ``prumerge``.
    ``mode="code"`` with ``adaptive``: the last token is never added, r = 0 or r > 1/3 raises. With ``ratio`` r, the form of its
    training: floor(N r) tokens, then every floor(1/r)-th from half a step on, some twice; as many of the first tokens that do not
    stay are lost. The budget is then the number of rows that come of it. tokens (G, N, D) -> (G, k, D).

    Accounting: tokens entering the language model; adaptive, about four times the picture's outliers.
    Cost: as prumerge.
    Differs from the authors' code: batches; no token twice and any budget in ``mode="paper"``.
    """

    def __init__(self, adaptive: bool = False, neighbours: int = 32, ratio: float | None = None, mode: Mode = "paper"):
        super().__init__(adaptive, neighbours, mode)
        if ratio is not None and not (is_number(ratio) and 0 < ratio <= 1 and mode == "code" and not adaptive):
            raise ValueError(f"ratio={shown(ratio)} must be a share above 0, with mode='code' and without adaptive")
        self.ratio = ratio

    def _order(self, attention: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.ratio is not None:
            return self._with_repeats(attention, self.ratio)
        tokens = attention.shape[1]
        number = torch.arange(tokens, device=attention.device)
        rank = topk(attention, tokens).argsort(dim=1)  # (G, N)
        first = (k - 1 + 3) // 4
        if self.adaptive:
            share = outliers(attention).mean(-1, keepdim=True, dtype=torch.float64)
            single = (share * tokens).long()
            if self.mode == "code" and bool(((share <= 0) | (share > 1 / 3)).any()):
                raise ValueError(
                    "mode='code' of prumerge_plus fails as its authors' does: no outliers, or more than a third"
                )
            step = ((1 / share.clamp(min=1 / tokens)).long() // 3).clamp(min=1)
            added = (number % step == 0) & (rank >= single) & (number < tokens - (self.mode == "code"))
        else:
            single = torch.full_like(rank[:, :1], first)
            free = (rank >= single).long().cumsum(1) - 1  # the number of each among those not singled out
            left, wanted = tokens - first, k - 1 - first
            # As many as wanted, at equal distances: where the floor of the running share rises
            added = ((free + 1) * wanted // max(left, 1) > free * wanted // max(left, 1)) & (rank >= single)
        key = torch.where(rank < single, rank, torch.where(added, tokens + number, 2 * tokens + number))
        order = key.argsort(dim=1)
        count = torch.minimum(single + added.sum(1, keepdim=True), torch.full_like(single, k - 1))
        return order, order, count.clamp(min=1)

    def _with_repeats(self, attention: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        """The order of the training form, whose first slots may hold a token twice."""
        images, tokens = attention.shape
        step = int(1 / ratio)
        single = topk(attention, int(tokens * ratio))
        spread = torch.arange(int(step / 2), tokens - 1, step, device=attention.device).expand(images, -1)
        stay = torch.cat([single, spread], dim=1)
        count = stay.shape[1]
        again = (stay[:, :, None] == stay[:, None]).tril(-1).any(-1)  # (G, m)
        free = (
            torch.zeros_like(attention).scatter(1, stay, 1).argsort(dim=1, stable=True)
        )  # those that do not stay first
        lost = free.gather(1, (again.long().cumsum(1) - 1).clamp(min=0))
        behind = again.sum(1, keepdim=True) + torch.arange(tokens - count, device=stay.device)
        tail = free.gather(1, behind)
        order = torch.cat([stay, tail], dim=1)
        places = torch.cat([torch.where(again, lost, stay), tail], dim=1)
        return order, places, torch.full_like(stay[:, :1], count)

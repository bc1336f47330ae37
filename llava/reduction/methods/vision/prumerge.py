from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ... import prices
from ...aggregate import Merged, gather
from ...checks import check_choice, check_flag, check_whole
from ...evidence import Evidence, Need
from ...registry import register
from ...score import outliers, similarity
from ...select import topk
from ...stage import Reducer

Mode = Literal["paper", "code"]


@register("prumerge")
class PruMerge(Reducer):
    """Keep the tokens that the class token singles out, merge into each what its key is like, and the rest into one more.

    Paper: https://arxiv.org/abs/2403.15388   Site: features   Needs: class token's query, all keys of the last layer   Training: none

    a = softmax over the class token and the patches of q_cls k / sqrt(C), one head of the whole width C, of the tower's last
    layer. The k - 1 highest stay; ``adaptive``: as many as lie above Q3 + 1.5 (Q3 - Q1), at most the budget. Each becomes
    x_i + sum over its ``neighbours`` nearest other tokens (cosine of keys, kept ones among them) of a_j x_j; one more token is the
    sum of a_j x_j over all that do not stay, in the place of the strongest. tokens (G, N, D) -> (G, k, D).
    ``mode="code"``: kept tokens come by falling attention, the extra one last.

    Accounting: tokens entering the language model; adaptive, as many as the picture has outliers.
    Cost: keys and one query of a layer of the tower, N^2 D for the similarities, k N D for the merge.
    Differs from the authors' code: batches; fewer neighbours where there are fewer tokens; a picture without outliers keeps one.
    """

    needs = frozenset({Need.CLS, Need.TOWER})
    sites = ("features",)
    tower_layers = (-1,)
    merges = True
    least_keep = 2

    def __init__(self, adaptive: bool = False, neighbours: int = 32, mode: Mode = "paper"):
        super().__init__()
        check_flag("adaptive", adaptive)
        check_whole("neighbours", neighbours, 0)
        check_choice("mode", mode, get_args(Mode))
        self.adaptive, self.neighbours, self.mode = adaptive, neighbours, mode

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        attention = self._attention(evidence)[0]  # (G, N)
        order, places, count = self._order(attention, k)
        slot = torch.arange(order.shape[1], device=order.device)
        going = (slot < count) | (slot == _strongest(attention, order, count))
        return torch.zeros_like(going).scatter(1, places, going)

    def _attention(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """The class token's attention (G, N) and the keys (G, N, C), heads side by side."""
        keys = evidence.tower_keys(-1).transpose(1, 2).flatten(2)
        query, key = (part.flatten(1)[:, None] for part in evidence.cls_projections(-1))  # (G, 1, C)
        logits = query @ torch.cat([key, keys], dim=1).transpose(1, 2) * keys.shape[-1] ** -0.5
        return logits.softmax(-1)[:, 0, 1:], keys

    def _count(self, attention: Tensor, k: int) -> Tensor:
        """How many tokens of each picture are singled out: (G, 1)."""
        if not self.adaptive:
            return torch.full_like(attention[:, :1], k - 1, dtype=torch.long)
        share = outliers(attention).mean(-1, keepdim=True, dtype=torch.float64)
        return (share * attention.shape[1]).long().clamp(min=1, max=k - 1)

    def _order(self, attention: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """All tokens (G, N), those that stay first; in whose place each goes on; how many stay (G, 1)."""
        order = topk(attention, attention.shape[1])
        return order, order, self._count(attention, k)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor | Merged:
        attention, keys = self._attention(evidence)
        if kept.shape[1] == tokens.shape[1]:
            return gather(tokens, kept)
        count = kept.shape[1] - 1
        order, places, _ = self._order(attention, kept.shape[1])
        sources = gather(tokens.float() * attention[..., None], order)
        near = similarity(gather(keys, order[:, :count]), gather(keys, order))  # (G, k - 1, N)
        near.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # not itself
        nearest = near.topk(min(self.neighbours, near.shape[2] - 1), dim=-1).indices
        rows = gather(tokens.float(), order[:, :count]) + torch.zeros_like(near).scatter(2, nearest, 1) @ sources
        rows = torch.cat([rows, sources[:, count:].sum(1, keepdim=True)], dim=1).to(tokens.dtype)
        strongest = order.gather(1, _strongest(attention, order, count))
        origin = torch.cat([places[:, :count], strongest], dim=1)
        return Merged(rows, origin) if self.mode == "code" else Merged(gather(rows, origin.argsort(dim=1)), kept)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.similarities(tokens, width, kept - 1)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return prices.cls_attention(patches, width) + prices.similarities(patches, width, kept - 1)


def _strongest(attention: Tensor, order: Tensor, count: Tensor | int) -> Tensor:
    """The slot of the most attended token after the first ``count`` of an order (G, N): (G, 1)."""
    behind = torch.arange(order.shape[1], device=order.device) >= count
    return attention.gather(1, order).masked_fill(~behind, -torch.inf).argmax(1, keepdim=True)

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ... import prices
from ...aggregate import Merged, gather
from ...checks import check_choice, check_whole
from ...evidence import Evidence, Need
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency
from ...score import mean_heads, similarity
from ...select import topk
from ...stage import Reducer

Mode = Literal["paper", "code"]
HEADS = 16  # of CLIP ViT-L, over which the keys are averaged


@register("visionzip")
class VisionZip(Reducer):
    """Keep the tokens that the class token attends to most, and merge the rest into a few by the likeness of their keys.

    Paper: https://arxiv.org/abs/2412.04467   Site: features, or projected where a token is several features   Needs: class token's attention and keys of layer -2   Training: none

    Dominant tokens have the highest sum over the heads of the class token's attention. Of the rest, in raster order, every
    step-th is a target, step = max(1, floor(r / c)) for r of them and c contextual tokens; every other goes to the target whose
    head-mean key has the highest cosine, and a target becomes the mean of its members. ``contextual`` is c, at 192, 128 and
    64 tokens 30, 20 and 10 as published, else 5/32 of the budget. tokens (G, N, D) -> (G, k, D).
    ``mode="code"``: the class token's own row takes the place of one dominant token and comes first, contextual tokens come
    last, and each is target + mean of the others (twice the norm), as in the released package. ``saliency``: what ranks the
    dominant, see ``llava.reduction.saliency``.

    Accounting: tokens entering the language model.
    Cost: one query row of the tower's layer, and N c d for the assignment.
    Differs from the authors' code: budgets below c + 1 raise; in ``mode="paper"`` no class token, no doubled norm, raster order.
    """

    needs = frozenset({Need.CLS, Need.TOWER})
    sites = ("features", "projected")
    tower_layers = (-2,)
    merges = True
    least_keep = 2

    def __init__(self, contextual: int | None = None, mode: Mode = "paper", saliency: Saliency = "cls"):
        super().__init__()
        self.needs = check_saliency(saliency) | {Need.TOWER}
        if contextual is not None:
            check_whole("contextual", contextual, 1)
        check_choice("mode", mode, get_args(Mode))
        self.contextual, self.mode = contextual, mode
        self.saliency: Saliency = saliency

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        dominant, targets, lent = self._roles(evidence, k)
        return torch.cat([dominant, lent, targets], dim=1)

    def _roles(self, evidence: Evidence, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Dominant tokens, targets, and in the released form the token whose place the class token's row takes."""
        attention = mean_heads(saliency(evidence, self.saliency))  # (G, N)
        contextual, own = self._contextual(k), int(self.mode == "code")
        order = topk(attention, attention.shape[1])
        dominant = order[:, : k - contextual - own].sort(dim=1).values
        rest = order[:, dominant.shape[1] :].sort(dim=1).values  # in raster order
        step = max(1, rest.shape[1] // contextual)
        targets = rest[:, : step * contextual : step]
        taken = torch.cat([dominant, targets], dim=1)
        return dominant, targets, topk(attention.scatter(1, taken, -torch.inf), own)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Merged:
        dominant, targets, lent = self._roles(evidence, kept.shape[1])
        origin = torch.cat([dominant, targets], dim=1)
        keys = evidence.tower_keys().mean(1)  # (G, N, d)
        nearest = similarity(keys, gather(keys, targets)).argmax(-1)
        merges = torch.ones_like(keys[..., 0]).scatter(1, origin, 0)  # (G, N), zero for what is kept
        member = one_hot(nearest, targets.shape[1]).to(tokens) * merges[..., None].to(tokens)
        added, count = member.transpose(1, 2) @ tokens, member.sum(1)[..., None]  # (G, c, D), (G, c, 1)
        if self.mode == "code":
            row = evidence.cls_row()[:, None].to(tokens)
            if row.shape[-1] != tokens.shape[-1]:
                raise ValueError(
                    "mode='code' of visionzip carries a feature of the tower along; put it at site='features'"
                )
            rows = [row, gather(tokens, origin)]
            rows[1][:, dominant.shape[1] :] += added / count.clamp(min=1)
            return Merged(torch.cat(rows, dim=1), torch.cat([lent, origin], dim=1))
        contextual = (gather(tokens, targets) + added) / (1 + count)
        rows = torch.cat([gather(tokens, dominant), contextual], dim=1)
        return Merged(gather(rows, origin.argsort(dim=1)), kept)

    def _contextual(self, k: int) -> int:
        published = {192: 30, 128: 20, 64: 10}
        contextual = published.get(k, max(1, k * 5 // 32)) if self.contextual is None else self.contextual
        if contextual + (self.mode == "code") >= k:
            raise ValueError(
                f"contextual={contextual} of visionzip leaves no dominant token of {k}; keep more, or merge fewer"
            )
        return contextual

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        merged = 2 * tokens * self._contextual(kept) * (width / HEADS + width)
        return prices.cls_attention(tokens, width) + merged

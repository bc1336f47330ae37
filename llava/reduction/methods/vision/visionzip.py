from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ... import clusters, prices
from ...aggregate import Merged, gather
from ...checks import check_choice, check_whole
from ...evidence import Evidence, Need
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...score import mean_heads
from ...select import topk
from ...stage import Reducer

Mode = Literal["paper", "code"]
HEADS = 16  # of CLIP ViT-L, over which the keys are averaged


@register("visionzip")
class VisionZip(Reducer):
    """Keep the tokens that the class token attends to most, and merge the rest into a few by similarity of keys.

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
        dominant, rest, slots, lent = self._roles(evidence, k)
        return torch.cat([dominant, lent, rest.gather(1, slots)], dim=1)

    def _roles(self, evidence: Evidence, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Dominant tokens, the rest, which of the rest are targets, and whose place the class token's row takes, if it does."""
        attention = mean_heads(saliency(evidence, self.saliency))  # (G, N)
        contextual, own = self._contextual(k), int(self.mode == "code")
        order = topk(attention, attention.shape[1])
        dominant = order[:, : k - contextual - own].sort(dim=1).values
        rest = order[:, dominant.shape[1] :].sort(dim=1).values  # in raster order
        step = max(1, rest.shape[1] // contextual)
        slots = torch.arange(rest.shape[1], device=rest.device)[: step * contextual : step].expand(len(rest), -1)
        taken = torch.cat([dominant, rest.gather(1, slots)], dim=1)
        return dominant, rest, slots, topk(attention.scatter(1, taken, -torch.inf), own)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Merged:
        dominant, rest, slots, lent = self._roles(evidence, kept.shape[1])
        origin = torch.cat([dominant, rest.gather(1, slots)], dim=1)
        keys, others = gather(evidence.tower_keys().mean(1), rest), gather(tokens, rest)
        member, count = clusters.nearest_kept(keys, slots), slots.shape[1]
        contextual = clusters.means(others, member, count)  # (G, c, D)
        if self.mode == "paper":
            rows = torch.cat([gather(tokens, dominant), contextual.to(tokens)], dim=1)
            return Merged(gather(rows, origin.argsort(dim=1)), kept)
        row = evidence.cls_row()[:, None].to(tokens)
        if row.shape[-1] != tokens.shape[-1]:
            raise ValueError("mode='code' of visionzip carries a feature of the tower along; put it at site='features'")
        targets, size = gather(others, slots), one_hot(member, count).sum(1)[..., None]
        joined = (contextual * size - targets) / (size - 1).clamp(min=1)  # the mean without the target
        rows = torch.cat([row, gather(tokens, dominant), (targets + joined).to(tokens)], dim=1)
        return Merged(rows, torch.cat([lent, origin], dim=1))

    def left(self, tokens: int, k: int | None) -> int:
        return tokens if k is None or not self._contextual(k) else k

    def _contextual(self, k: int) -> int:
        contextual = self.contextual or {192: 30, 128: 20, 64: 10}.get(k, max(1, k * 5 // 32))
        if contextual + (self.mode == "code") >= k:
            raise ValueError(
                f"contextual={contextual} of visionzip leaves no dominant token of the {k} that each crop keeps; keep more"
                f" than {contextual + (self.mode == 'code')} for each crop, or give a lower contextual"
            )
        return contextual

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.similarities(tokens, width, self._contextual(kept))

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        keys = prices.similarities(patches, width / HEADS, self._contextual(kept))
        return saliency_flops(self.saliency, patches, width) + keys

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...checks import check_choice, is_number, shown
from ...evidence import Evidence
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...select import topk
from ...stage import Reducer

Mode = Literal["paper", "code"]


@register("hired")
class HiRED(Reducer):
    """Share a picture's budget among its crops by where the whole picture is attended to, and keep the best of each.

    Paper: https://arxiv.org/abs/2408.10945   Site: features   Needs: class token's attention of layers 0 and -2   Training: none

    The whole picture, the first crop, gets min(floor(k ``alpha``), N) of the budget k; the rest goes to the other crops by how
    many of the whole picture's floor(N (1 - alpha)) most attended tokens, by layer 0 summed over the heads, lie in the part that
    each shows. In a crop the most attended by layer -2 stay. A picture of one crop keeps its k most attended. tokens (G, N, D) ->
    kept (G, k). ``saliency``: see ``llava.reduction.saliency``. ``mode="code"``: a crop's part is a run of tokens in raster order,
    its true part only where crops lie one below the other, and shares are truncated, so that some of the budget is lost.

    Accounting: tokens entering the language model, all crops of a picture together.
    Cost: keys and one query of two layers of the tower.
    Differs from the authors' code: parts are two-dimensional where the crops are, and the whole budget is given out.
    """

    sites = ("features", "projected")
    tower_layers = (0, -2)
    shares_crops = True

    def __init__(self, alpha: float = 0.5, mode: Mode = "paper", saliency: Saliency = "cls"):
        super().__init__()
        if not (is_number(alpha) and 0 <= alpha <= 1):
            raise ValueError(f"alpha={shown(alpha)} must be a share between 0 and 1")
        check_choice("mode", mode, get_args(Mode))
        self.needs = check_saliency(saliency)
        self.alpha, self.mode = alpha, mode
        self.saliency: Saliency = saliency

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return topk(saliency(evidence, self.saliency, -2).sum(1), k)

    def shares(self, budget: int, evidence: Evidence) -> list[int]:
        attention = saliency(evidence, self.saliency, 0).sum(1)[0]  # (N,), of the whole picture
        crops, tokens = len(evidence.seeds), len(attention)
        whole = min(int(budget * self.alpha), tokens)
        rest = min(budget - whole, (crops - 1) * tokens)
        marked = torch.zeros(tokens, device=attention.device).scatter(
            0, topk(attention[None], int(tokens * (1 - self.alpha)))[0], 1
        )
        part = self._parts(evidence, crops - 1, tokens).to(marked.device)
        share = torch.zeros(crops - 1, device=marked.device).index_add(0, part, marked)
        total = float(share.sum())
        each = [min(int(rest * float(one) / total), tokens) if total else 0 for one in share]
        if self.mode == "paper":
            order = sorted(range(crops - 1), key=lambda crop: (-float(share[crop]), crop))
            for crop in order * tokens:  # what truncation and full crops have left over, to the most attended first
                left = rest - sum(each)
                if not left:
                    break
                each[crop] += int(each[crop] < tokens)
            whole += min(tokens - whole, budget - whole - sum(each))
        return [whole, *each]

    def _parts(self, evidence: Evidence, crops: int, tokens: int) -> Tensor:
        """Which crop each token of the whole picture lies in: (N,)."""
        number = torch.arange(tokens)
        if self.mode == "code" or evidence.crop_grid is None or evidence.grid is None:
            return number * crops // tokens
        (down, across), (height, width) = evidence.crop_grid, evidence.sides
        return (number // width * down // height) * across + number % width * across // width

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return saliency_flops(self.saliency, patches, width)

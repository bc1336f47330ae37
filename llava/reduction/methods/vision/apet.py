from __future__ import annotations

import torch
from torch import Tensor

from ... import clusters, prices
from ...aggregate import gather
from ...checks import check_flag, check_whole
from ...evidence import Evidence
from ...registry import register
from ...score import similarity
from ...select import fps, topk
from ...stage import Reducer

RIDGE = 1e-5


@register("apet")
class ApET(Reducer):
    """Keep the tokens that no mixture of a few others comes close to, and merge the rest into those they are most like.

    Paper: https://github.com/Maqkccx/ApET (2026)   Site: projected   Needs: nothing   Training: none

    ``basis`` tokens B by farthest point sampling; every token is approximated as W B with ridge 1e-5 (least squares), and those
    with the largest error ||x - W B||^2 stay. With ``merge`` each of the others joins the kept token of the highest cosine,
    which becomes the mean of its members. tokens (G, N, D) -> (G, k, D).

    Accounting: tokens entering the language model.
    Cost: N^2 D for the sampling, 2 N b D for the approximation, N k D for the merge.
    Differs from the authors' code: the sampling begins at the most central token; every picture separately.
    """

    sites = ("projected", "features", "prompt")
    merges = True

    def __init__(self, basis: int = 10, merge: bool = True):
        super().__init__()
        check_whole("basis", basis, 1)
        check_flag("merge", merge)
        self.basis, self.merge = basis, merge

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        rows = tokens.float()
        chosen = gather(rows, fps(similarity(tokens), min(self.basis, tokens.shape[1])))  # (G, b, D)
        gram = chosen @ chosen.transpose(1, 2) + RIDGE * torch.eye(chosen.shape[1], device=tokens.device)
        weight = torch.linalg.solve(gram, chosen @ rows.transpose(1, 2))  # (G, b, N)
        error = (rows - weight.transpose(1, 2) @ chosen).square().sum(-1)  # (G, N)
        return topk(torch.where(error > RIDGE * rows.square().sum(-1), error, 0), k)  # below is rounding

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        if not self.merge or kept.shape[1] == tokens.shape[1]:
            return gather(tokens, kept)
        return clusters.means(tokens, clusters.nearest_kept(tokens, kept), kept.shape[1])

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        approximated = 2 * tokens * self.basis * width * 2 + 2 * self.basis**2 * width
        merged = 2 * prices.similarities(tokens, width, kept) if self.merge and kept < tokens else 0
        return prices.similarities(tokens, width) + approximated + merged

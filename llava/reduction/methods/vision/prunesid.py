from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ... import prices
from ...aggregate import Merged, gather
from ...checks import check_choice
from ...evidence import Evidence, Need
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...score import mean_heads, similarity
from ...select import suppress, topk
from ...stage import Reducer

Mode = Literal["paper", "code"]


@register("prunesid")
class PruneSID(Reducer):
    """Group the tokens by their principal component, drop near copies in each group, and share the budget among groups.

    Paper: https://github.com/ZhengyaoFang/PruneSID   Site: features   Needs: class token's attention of layer -2   Training: none

    X = sigmoid(tokens) (D, N), every token without its own mean; V its right singular vectors, of which max(1, k // 4) are used;
    token i is of group argmax_q |V_iq|. In each group, by falling head-mean attention, a token is suppressed whose cosine to one
    that stays is above k / 32 times the mean cosine of all pairs. Every group with tokens keeps one, the others go to groups in
    proportion to their survivors (highest averages: the r-th of n has n / r), at most 5 ceil(k / 64) each. What then
    remains goes to further survivors and last to suppressed tokens, by attention. tokens (G, N, D) -> kept (G, k).
    ``saliency``: what stands for the attention, see ``llava.reduction.saliency``. ``mode="code"``: the class token's
    row is one of the k and comes first, the others come group by group.

    Accounting: tokens entering the language model.
    Cost: keys and one query of a layer of the tower, N^2 D twice, and N^3 for the eigenvectors, which the price leaves out.
    Differs from the authors' code: exact singular vectors, theirs are of a random sketch; rounding of shares and what fills a
    budget that survivors do not are chosen here; batches.
    """

    sites = ("features",)
    tower_layers = (-2,)
    merges = True
    least_keep = 2

    def __init__(self, mode: Mode = "paper", saliency: Saliency = "cls"):
        super().__init__()
        check_choice("mode", mode, get_args(Mode))
        self.needs = check_saliency(saliency) | (frozenset({Need.CLS}) if mode == "code" else frozenset())
        self.mode = mode
        self.saliency: Saliency = saliency

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return self._chosen(tokens, evidence, k)

    def _chosen(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        """The kept tokens (G, k); in the released form by group, after the one whose place the class token takes."""
        attention = mean_heads(saliency(evidence, self.saliency))  # (G, N)
        order = topk(attention, attention.shape[1])
        ranked, own = gather(tokens, order), int(self.mode == "code")
        group, alike = self._groups(ranked, k), similarity(ranked)
        pairs = alike.shape[1] * max(alike.shape[1] - 1, 1)
        limit = (alike.sum((1, 2)) - alike.shape[1]) / pairs * k / 32  # (G,)
        stays = suppress((group[:, None] == group[..., None]) & (alike > limit[:, None, None]))
        member = one_hot(group, max(1, k // 4)) * stays[..., None]  # (G, N, groups)
        number = member.cumsum(1).gather(2, group[..., None])[..., 0].clamp(min=1)  # in its group, from 1
        count = member.sum(1).gather(1, group)  # of its group's survivors
        wanted = (count / number).masked_fill(number == 1, torch.inf)
        wanted = wanted.masked_fill(number > 5 * -(-k // 64), -1).masked_fill(~stays, -2)
        first = topk(wanted, k)  # of equal ones the most attended
        kept, lent = first[:, : k - own].sort(dim=1).values, first[:, k - own :]
        if own:
            kept = kept.gather(1, group.gather(1, kept).argsort(dim=1, stable=True))
        return order.gather(1, torch.cat([lent, kept], dim=1))

    @staticmethod
    def _groups(tokens: Tensor, k: int) -> Tensor:
        """The principal component, the largest first, that has most of each token (G, N)."""
        rows = tokens.double().sigmoid()
        rows = rows - rows.mean(-1, keepdim=True)
        vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2)).eigenvectors.flip(-1)  # (G, N, N)
        used = min(max(1, k // 4), tokens.shape[1], max(1, tokens.shape[2] - 1))  # beyond its rank they are arbitrary
        return vectors[..., :used].abs().argmax(-1)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor | Merged:
        if self.mode == "paper":
            return gather(tokens, kept)
        order = self._chosen(tokens, evidence, kept.shape[1])
        rows = torch.cat([evidence.cls_row()[:, None].to(tokens), gather(tokens, order[:, 1:])], dim=1)
        return Merged(rows, order)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return 2 * prices.similarities(tokens, width)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return saliency_flops(self.saliency, patches, width)

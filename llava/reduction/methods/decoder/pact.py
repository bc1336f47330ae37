from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ... import clusters, prices
from ...aggregate import Merged, gather
from ...checks import check_flag, is_number, shown
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...score import similarity
from ...select import topk
from ...stage import Reducer


@register("pact")
class PACT(Reducer):
    """Keep the centres of clusters of tokens that matter, each the mean of what lies within a cut-off of it.

    Paper: https://arxiv.org/abs/2504.08966   Site: layer K (4)   Needs: queries and keys of the layer itself   Training: none

    Importance of token i: |h_i| times the mean over the heads of softmax_i(k_i . q / sqrt(d)), q the mean query of the
    picture. The share ``unimportant`` with the lowest importance goes, as long as k are left. Of the others, in falling
    density sum_j exp(-d_ij / c), each is a centre whose distance to all centres before it is above c, d = 1 - cosine of
    the keys. The rest joins its nearest centre, as does what was unimportant but lies within ``recover`` c of one. A
    cluster becomes its mean, in its centre's place; as a key it weighs log(size) more in later layers
    (``proportional``). ``cutoff``: c; the picture then decides how many stay, at most k. None (default): for every
    picture the largest c with k centres. tokens (G, N, D) -> (G, k, D).

    Accounting: tokens after layer K; with a cut-off, as many as the picture has clusters, at most the budget.
    Cost: queries of the image's rows and N^2 d for the distances, both twice, keys of all rows, N k D for the means; no row of
    attention, so that fused kernels serve.
    Differs from the authors' code: written from the paper; queries and keys before the rotary embedding; a number of
    tokens can be asked for, where their knob is the cut-off (0.21 with LLaVA-OneVision); batches.
    """

    needs = frozenset({Need.ATTENTION})
    sites = ("layer",)
    default_layer = 4
    merges = True

    def __init__(
        self,
        cutoff: float | None = None,
        unimportant: float = 0.55,
        recover: float = 1.5,
        proportional: bool = True,
    ):
        super().__init__()
        if cutoff is not None and not (is_number(cutoff) and 0 < cutoff <= 2):
            raise ValueError(f"cutoff={shown(cutoff)} must be a distance above 0 and at most 2, or left out")
        if not (is_number(unimportant) and 0 <= unimportant < 1):
            raise ValueError(f"unimportant={shown(unimportant)} must be a share of at least 0 and below 1")
        if not (is_number(recover) and recover >= 0):
            raise ValueError(f"recover={shown(recover)} must be a number of at least 0")
        check_flag("proportional", proportional)
        self.cutoff, self.unimportant, self.recover, self.proportional = cutoff, unimportant, recover, proportional
        self.adaptive = cutoff is not None

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        important, far = self._important(tokens, evidence, k)
        near = self._among(far, important)
        picked, central = clusters.bounded_peaks(near, k, self._cutoff(near, k)[:, None])
        centres = important.gather(1, picked[:, 0])
        if not self.adaptive:
            return centres
        return torch.zeros_like(tokens[..., 0], dtype=torch.bool).scatter(1, centres, central[:, 0])

    def _important(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> tuple[Tensor, Tensor]:
        """The tokens that matter (G, n), ascending, and the distances of all (G, N, N)."""
        keys = evidence.keys(back=0, rope=False)[0].float()  # (G, H_kv, N, d)
        query = evidence.queries(back=0).float().mean(2).unflatten(1, (keys.shape[1], -1))  # (G, H_kv, H / H_kv, d)
        seen = (query @ keys.transpose(2, 3) * keys.shape[-1] ** -0.5).softmax(-1).flatten(1, 2).mean(1)  # (G, N)
        count = max(round(tokens.shape[1] * (1 - self.unimportant)), 1 if self.adaptive else k)
        important = topk(seen * tokens.float().norm(dim=-1), count).sort(dim=1).values
        return important, 1 - similarity(keys.transpose(1, 2).flatten(2))

    @staticmethod
    def _among(far: Tensor, rows: Tensor) -> Tensor:
        """Of distances (G, N, N) those among some rows (G, n): (G, n, n)."""
        return gather(far, rows).gather(2, rows[:, None].expand(-1, rows.shape[1], -1))

    def _cutoff(self, near: Tensor, k: int) -> Tensor:
        """The cut-off of each picture (G,), given the distances of what matters."""
        return near.new_full((len(near),), self.cutoff) if self.cutoff is not None else clusters.cutoff_for(near, k)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: DecoderEvidence) -> Tensor | Merged:
        count = kept.shape[1]
        if count == tokens.shape[1]:
            return gather(tokens, kept)
        important, far = self._important(tokens, evidence, count)
        reach = self.recover * self._cutoff(self._among(far, important), count)
        distance, nearest = gather(far, kept).min(1)  # (G, N)
        nearest = nearest.scatter(1, kept, torch.arange(count, device=kept.device).expand_as(kept))
        joins = (distance <= reach[:, None]).scatter(1, important, True).scatter(1, kept, True)
        weight = joins.float() if evidence.sizes is None else joins * evidence.sizes
        member = one_hot(nearest, count) * weight[..., None]  # (G, N, k)
        sizes = member.sum(1)
        means = (member.transpose(1, 2) @ tokens.float() / sizes[..., None]).to(tokens.dtype)
        return Merged(means, kept, sizes) if self.proportional else means

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        if kept >= tokens:
            return 0.0
        found = 2 * tokens * width * width + 2 * tokens * width + prices.similarities(tokens, width)
        return 2 * found + 2 * rows * width * width + prices.similarities(tokens, width, kept)

from __future__ import annotations

from torch import Tensor

from ... import prices
from ...checks import check_whole, is_number, shown
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...select import topk
from ...stage import Reducer


@register("diprune")
class DIPrune(Reducer):
    """Keep the image tokens that rank high in the text's attention, and those whose rank has risen over the last layers.

    Paper: DIPrune (2026)   Site: layer 10   Needs: attention of layers K-1 and K-1-d, text rows   Training: none

    rank_l: a token's place, from 1, by the mean attention of the text after the image in layer l. Score: ``weight``
    (N - rank_{K-1} + 1) / N + (1 - weight) (clamp(rank_{K-1-d} - rank_{K-1}, -M, M) / M + 1) / 2 with weight 0.6; ``span`` is d and
    ``limit`` is M as a share of N. The paper's point is the layer: which tokens are chosen matters less than that it
    happens at layer 10. tokens (G, N, D) -> kept (G, k).

    Accounting: tokens after layer K.
    Cost: T query rows in two layers, T (4 d^2 + 4 S d), and the keys of the earlier one, 2 S d^2.
    Differs from the authors' code: written from the paper; d and M were not in the sources at hand, and are 2 and N / 4
    here.
    """

    needs = frozenset({Need.ATTENTION})
    sites = ("layer",)
    default_layer = 10

    def __init__(self, weight: float = 0.6, span: int = 2, limit: float = 0.25):
        super().__init__()
        if not (is_number(weight) and 0 <= weight <= 1):
            raise ValueError(f"weight={shown(weight)} must be a share between 0 and 1")
        check_whole("span", span, 1)
        if not (is_number(limit) and 0 < limit <= 1):
            raise ValueError(f"limit={shown(limit)} must be a share above 0 and at most 1")
        self.weight, self.span, self.limit = weight, span, limit
        self.looks_back = 1 + span

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        count = tokens.shape[1]
        # A stage near the beginning looks back only as many layers as there are
        now, before = (self._ranks(evidence, back) for back in (1, min(1 + self.span, evidence.reach)))
        most = max(1.0, self.limit * count)
        risen = ((before - now).clamp(-most, most) / most + 1) / 2
        return topk(self.weight * (count - now + 1) / count + (1 - self.weight) * risen, k)

    @staticmethod
    def _ranks(evidence: DecoderEvidence, back: int) -> Tensor:
        """The place of each token, from 1, by what it receives from the text: (G, N)."""
        received = evidence.received("text", back=back)
        return (topk(received, received.shape[1]).argsort(dim=1) + 1).float()

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        words = rows - tokens if text is None else text
        return prices.attention_rows(words, rows, width) + prices.attention_rows(words, rows, width, keys=True)

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ... import prices
from ...checks import check_choice
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...select import topk
from ...stage import Reducer

Rows = Literal["question", "last"]
TINY = 1e-10


@register("priortr")
class PriorTR(Reducer):
    """Keep the image tokens that the question attends to more than what follows every picture does.

    Paper: PriorTR (2026), https://github.com/CodeChildCZJ/PriorTR   Site: layer 3   Needs: attention of layer K-1, text rows   Training: none

    Q: attention of the first token after the picture, which has read no question yet; P: the mean attention of the
    question's rows after it (``rows="question"``, as for LLaVA-1.5), or of the last prompt token (``rows="last"``, as
    for 1.6). Both are the mean over the heads and normalised over the image's tokens; the score is P log((P + 1e-10) /
    (Q + 1e-10)), a token's part of their divergence. tokens (G, N, D) -> kept (G, k).

    Accounting: tokens after layer K.
    Cost: T query rows against the layer's keys, T (2 d^2 + 2 S d).
    Differs from the authors' code: batches. A question of one token is its own prior's only row.
    """

    needs = frozenset({Need.ATTENTION, Need.TEXT})
    sites = ("layer",)
    default_layer = 3

    def __init__(self, rows: Rows = "question"):
        super().__init__()
        check_choice("rows", rows, get_args(Rows))
        self.rows: Rows = rows

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        _, real = evidence.text()  # (G, R), real words at the right
        seen = evidence.attention("text", "mean")  # (G, R, N)
        first = real.long().argmax(1, keepdim=True)  # (G, 1)
        prior = seen.gather(1, first[..., None].expand(-1, -1, seen.shape[-1]))[:, 0]
        if self.rows == "last":
            posterior = seen[:, -1]
        else:
            behind = real.scatter(1, first, False).float()
            behind = behind + (behind.sum(1, keepdim=True) == 0) * real  # for a question of one word, that word
            posterior = (behind[:, None] @ seen)[:, 0] / behind.sum(1, keepdim=True)
        p, q = (part / part.sum(1, keepdim=True).clamp(min=TINY) for part in (posterior, prior))
        return topk(p * ((p + TINY) / (q + TINY)).log(), k)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.attention_rows(rows - tokens if text is None else text, rows, width)

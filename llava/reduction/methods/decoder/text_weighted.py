from __future__ import annotations

from typing import get_args

from torch import Tensor

from ...checks import check_choice
from ...evidence import DecoderEvidence, Need, TextScope
from ...registry import register
from ...score import text_weighted
from ...select import topk
from ...stage import Reducer


@register("text_weighted")
class TextWeighted(Reducer):
    """Keep the image tokens that the text attends to most, every word counted by the attention the text pays to it.

    Paper: none, proposed for this project   Site: layer K (2)   Needs: attention of layer K-1, text rows   Training: none

    With A the attention of layer K-1, mean over the heads, and i, j over the text: w_i = sum_j A[j, i] / sum_ij A[i, j],
    s_n = sum_i w_i A[i, n]; the k highest s stay. With one word s is that word's row. Text is what comes after the image
    (``text="after"``), or all of the prompt's (``text="all"``: words before the image attend to none of it and only take
    weight away). tokens (G, N, D) -> kept (G, k).

    Accounting: after layer K.
    Cost: R query rows against the layer's keys, R (2 d^2 + 2 S d) operations for R words.
    Differs from the authors' code: theirs never prunes, it only restricts a statistic, and reads layer K itself; here the
    tokens are gone from layer K on, by the attention of layer K-1, for every sample separately.
    """

    needs = frozenset({Need.ATTENTION})
    sites = ("layer",)
    default_layer = 2

    def __init__(self, text: TextScope = "after"):
        super().__init__()
        check_choice("text", text, get_args(TextScope))
        self.text: TextScope = text

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        return topk(text_weighted(*evidence.text_attention(self.text)), k)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        queries = rows - tokens if text is None or self.text == "all" else text
        return queries * (2 * width * width + 2 * rows * width)

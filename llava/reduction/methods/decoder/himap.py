from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...checks import check_choice, check_flag
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...select import topk
from ...stage import Reducer

Rows = Literal["text", "image"]


@register("himap")
class HiMAP(Reducer):
    """Keep the image tokens that the text attends to most; deeper, those that the other image tokens attend to.

    Paper: https://arxiv.org/abs/2503.13108   Site: layer A (2), then B (8)   Needs: attention of the layer before   Training: none

    With A the attention of layer K-1, mean over the heads, ``rows="text"`` scores an image token by sum_i A[i, n] over
    the text after the image, ``rows="image"`` by the sum over the image tokens that are left. The published plan is both
    in turn: ``himap@2:288 + himap@8:72,rows=image``; the cut-off of its experiments is ``+ blind@K``. Under a causal mask
    early image tokens are seen by more rows; ``row_normalised=true`` divides the image's column sums by their numbers of
    rows. tokens (G, N, D) -> kept (G, k).

    Accounting: after layers A and B.
    Cost: R query rows against the layer's keys, R (2 d^2 + 2 S d) operations for R rows; with the image's N rows some
    12 % of a layer.
    Differs from the authors' code: every sample decides for itself; padding stays masked; pruned once at prefill and
    cached, where theirs recomputes every generated token; the model is not asked for attention maps.
    """

    needs = frozenset({Need.ATTENTION})
    sites = ("layer",)
    default_layer = 2

    def __init__(self, rows: Rows = "text", row_normalised: bool = False):
        super().__init__()
        check_choice("rows", rows, get_args(Rows))
        check_flag("row_normalised", row_normalised)
        if row_normalised and rows == "text":
            raise ValueError("row_normalised=True only changes rows='image': every text row sees the whole image")
        self.rows: Rows = rows
        self.row_normalised = row_normalised

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        received = evidence.received(self.rows)  # (G, N)
        if self.row_normalised:
            received = received / torch.arange(tokens.shape[1], 0, -1, device=tokens.device)
        return topk(received, k)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        queries = tokens if self.rows == "image" else rows - tokens if text is None else text
        return queries * (2 * width * width + 2 * rows * width)

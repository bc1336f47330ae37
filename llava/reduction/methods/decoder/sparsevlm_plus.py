from __future__ import annotations

from torch import Tensor

from ...aggregate import gather
from ...checks import check_whole
from ...evidence import DecoderEvidence
from ...registry import register
from ...select import topk
from .sparsevlm import SparseVLM, raters

LABELS = {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)}


@register("sparsevlm_plus")
class SparseVLMPlus(SparseVLM):
    """Keep the image tokens that the words about the picture attend to, once the pull of positions is divided out.

    Paper: https://arxiv.org/abs/2410.04417 (version 2)   Site: after layers 2, 6 and 15 of 32   Needs: attention of layer K-1, text rows, input embeddings   Training: none

    Attention of the text in layer K-1, after the softmax, is divided by b = <R_m 1, R_n 1> / sqrt(d), what a query and a key of ones
    have at the same positions. The ``heads`` with the largest sums over raters and image count; the score is the mean over them and
    over the raters (``sparsevlm``). The k highest stay, at their positions; nothing is recycled. Labels 192, 128, 96 and 64 are the
    authors' lists. tokens (G, N, D) -> kept (G, k).

    Accounting: mean over the layers, in which the authors count the layer before the pruning as pruned.
    Cost: T query rows against the layer's keys per stage, T (2 d^2 + 2 S d).
    Differs from the authors' code: batches; fewer heads than 14 are all taken. Where heads are narrow b can cross zero, as in theirs.
    """

    default_positions = "original"
    merges = False
    labels = LABELS

    def __init__(self, heads: int = 14):
        super().__init__(recycle=False)
        check_whole("heads", heads, 1)
        self.heads = heads

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: DecoderEvidence) -> Tensor:
        return gather(tokens, kept)

    def _score(self, evidence: DecoderEvidence) -> Tensor:
        judging = raters(evidence).float()  # (G, R)
        seen = evidence.attention("text", "all") / evidence.position_bias("text")[:, None]  # (G, H, R, N)
        seen = (judging[:, None, None] @ seen)[:, :, 0] / judging.sum(1)[:, None, None]  # (G, H, N)
        best = topk(seen.sum(-1), min(self.heads, seen.shape[1]))  # (G, heads)
        return seen.gather(1, best[..., None].expand(-1, -1, seen.shape[-1])).mean(1)

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ... import clusters, prices
from ...aggregate import Merged, gather
from ...checks import check_flag
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...schedule import label_counts, scaled_layers
from ...select import topk
from ...stage import Reducer, Stage

PUBLISHED = (3, 7, 16)  # after layers 2, 6 and 15
# Kept and recycled tokens after each, by the paper's labels
LABELS = {192: (309, 204, 113), 128: (312, 117, 39), 96: (249, 55, 27), 64: (82, 32, 18)}


def raters(evidence: DecoderEvidence) -> Tensor:
    """Which words (G, R) judge: those that the image's embeddings point to more than to the mean word, at the input."""
    images, seen = evidence.embeddings("image")
    words, real = evidence.embeddings("text")
    logits = (images.float() @ words.float().transpose(1, 2)).masked_fill(~real[:, None], -torch.inf)
    pointed = (logits.softmax(-1) * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)  # (G, R)
    judging = (pointed > 1 / real.sum(1, keepdim=True)) & real
    return torch.where(judging.any(1, keepdim=True), judging, real)  # equal words all judge


def judged(evidence: DecoderEvidence) -> Tensor:
    """How much the raters attend to each token, mean over the heads and over them: (G, N)."""
    judging = raters(evidence).float()  # (G, R)
    seen = evidence.attention("text", "mean")  # (G, R, N)
    return (judging[:, None] @ seen)[:, 0] / judging.sum(1, keepdim=True)


@register("sparsevlm")
class SparseVLM(Reducer):
    """Keep the image tokens that the words about the picture attend to, and recycle the best of the rest as a few clusters.

    Paper: https://arxiv.org/abs/2410.04417   Site: after layers 2, 6 and 15 of 32   Needs: attention of layer K-1, text rows, input embeddings   Training: none

    Raters are the words that the picture's embeddings point to (``raters``). Score: mean over the raters of the head-mean attention
    of layer K-1. Of n tokens the highest m stay; of the others the best floor(0.3 (n - m)) + 1 form c = floor(that / 10) + 1
    clusters by density peaks, each its members' mean, in the place of its centre, after the kept ones; m + c = k.
    Positions are renumbered. The name alone is label 192; labels 192, 128, 96 and 64 are the authors' lists, others lie
    between. ``recycle=false`` keeps the highest k alone. tokens (G, N, D) -> (G, k, D).

    Accounting: mean over the layers, in which the authors count the layer before the pruning as pruned.
    Cost: T query rows against the layer's keys per stage, T (2 d^2 + 2 S d), and 0.09 N^2 D for the clusters.
    Differs from the authors' code: no noise on the densities, so that a run can be repeated; batches; the number kept follows their
    lists, not the rank of a matrix as in the paper, which is absent from the code.
    """

    needs = frozenset({Need.ATTENTION, Need.EMBEDDINGS})
    sites = ("layer",)
    scheduled = True
    default_layer = 3
    default_positions = "compact"
    merges = True
    labels: ClassVar[dict[int, tuple[int, ...]]] = LABELS

    def __init__(self, recycle: bool = True):
        super().__init__()
        check_flag("recycle", recycle)
        self.recycle = recycle

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        counts = label_counts(192 if keep is None else keep, self.labels)
        return [Stage(self, "layer", layer, count) for layer, count in zip(scaled_layers(PUBLISHED, layers), counts)]

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        kept, centres, _ = self._roles(tokens, evidence, k)
        return torch.cat([kept, centres], dim=1)

    def _roles(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Kept tokens (G, m) in raster order, centres (G, c) and what the clusters become (G, c, D)."""
        order = topk(self._score(evidence), tokens.shape[1])
        stay, spare, count = self._numbers(tokens.shape[1], k)
        kept, recycled = order[:, :stay].sort(dim=1).values, order[:, stay : stay + spare]
        if not count:
            return kept, order[:, :0], tokens[:, :0]
        rows = gather(tokens, recycled)
        centres, member = clusters.density_peaks(clusters.distances(rows), count)
        return kept, recycled.gather(1, centres), clusters.means(rows, member, count)

    def _score(self, evidence: DecoderEvidence) -> Tensor:
        return judged(evidence)

    def _numbers(self, tokens: int, k: int) -> tuple[int, int, int]:
        """How many of ``tokens`` stay, how many are recycled, and into how many clusters: stay + clusters = k."""
        for stay in range(k if self.recycle else 0, -1, -1):
            spare = int(0.3 * (tokens - stay)) + 1 if stay < tokens else 0
            count = spare // 10 + 1 if spare else 0
            if stay + count == k and stay + spare <= tokens:
                return stay, spare, count
        return k, 0, 0

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: DecoderEvidence) -> Merged:
        stay, centres, merged = self._roles(tokens, evidence, kept.shape[1])
        return Merged(
            torch.cat([gather(tokens, stay), merged.to(tokens.dtype)], dim=1), torch.cat([stay, centres], dim=1)
        )

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        words = rows - tokens if text is None else text
        spare = self._numbers(tokens, kept)[1]
        return (
            prices.attention_rows(words, rows, width)
            + prices.similarities(tokens, width, words)
            + spare * spare * width
        )

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ... import prices
from ...aggregate import Merged, gather
from ...checks import check_choice, check_flag
from ...evidence import Evidence
from ...registry import register
from ...relevance import Relevance, check_relevance, relevance, relevance_flops
from ...score import outliers
from ...select import topk
from ...stage import Reducer

Mode = Literal["paper", "code"]


@register("trim")
class TRIM(Reducer):
    """Keep the tokens that CLIP finds most relevant to the question, and the mean of all others as one more.

    Paper: https://arxiv.org/abs/2409.10994   Site: features   Needs: CLIP's text tower   Training: none

    s = softmax over the patches of minus the dot product of patch and question in CLIP's shared space, neither normalised
    (mean over the question's segments); the k - 1 highest stay, and one token is the mean of the rest. ``adaptive``: as many as
    have s above Q3 + 1.5 (Q3 - Q1) of their picture, at most the budget. ``relevance="embeddings"`` compares the question in the
    language model's embeddings instead. tokens (G, N, D) -> (G, k, D), the mean in the place of the best that is not kept.
    ``mode="code"``: quartiles of the whole batch, the mean comes last.

    Accounting: tokens entering the language model.
    Cost: N E for the scores, and CLIP's text tower once for each question.
    Differs from the authors' code: the mean counts in the budget; float32 stays float32, where theirs is rounded to float16.
    """

    sites = ("features", "projected")
    merges = True
    least_keep = 2

    def __init__(self, adaptive: bool = False, relevance: Relevance = "clip", mode: Mode = "paper"):
        super().__init__()
        check_flag("adaptive", adaptive)
        check_choice("mode", mode, get_args(Mode))
        self.needs = check_relevance(relevance)
        self.adaptive, self.mode = adaptive, mode
        self.relevance: Relevance = relevance

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        score = self._score(tokens, evidence)
        if not self.adaptive:
            return topk(score, k)
        share = score.softmax(-1)
        wanted = outliers(share.flatten() if self.mode == "code" else share).mean(-1, dtype=torch.float64)
        count = (wanted * tokens.shape[1]).long().clamp(min=1, max=k - 1) + 1
        place = topk(score, score.shape[1]).argsort(dim=1)
        return place < count.view(-1, 1)

    def _score(self, tokens: Tensor, evidence: Evidence) -> Tensor:
        if self.relevance == "embeddings":
            return relevance(tokens, evidence, self.relevance)
        texts, real = evidence.clip_text()
        near = (evidence.clip_patches() @ texts.transpose(1, 2)) * real[:, None]  # (G, N, M)
        return -near.sum(-1) / real.sum(1, keepdim=True)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor | Merged:
        score = self._score(tokens, evidence)
        if kept.shape[1] == tokens.shape[1]:
            return gather(tokens, kept)
        place = kept.gather(1, score.gather(1, kept).argsort(dim=1, stable=True)[:, :1])  # (G, 1), of the mean
        others = torch.ones_like(score).scatter(1, kept, 0).scatter(1, place, 1)
        mean = (others[:, None] @ tokens.float()) / others.sum(1)[:, None, None]
        rows = tokens.scatter(1, place[..., None].expand(-1, -1, tokens.shape[-1]), mean.to(tokens.dtype))
        if self.mode == "paper":
            return gather(rows, kept)
        alone = kept[kept != place].view(len(kept), -1)
        order = torch.cat([alone, place], dim=1)
        return Merged(gather(rows, order), order)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        question = prices.similarities(tokens, width, text or 0) if self.relevance == "embeddings" else 0
        return question + 2 * tokens * width

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return relevance_flops(self.relevance, patches, width)

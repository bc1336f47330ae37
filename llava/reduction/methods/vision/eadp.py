from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import prices
from ...checks import is_number, shown
from ...evidence import Evidence, Need
from ...registry import register
from ...relevance import Relevance, check_relevance, relevance, relevance_flops
from ...score import min_max, similarity
from ...select import facility_location
from ...stage import Reducer

SHARPNESS, CHOICE = 100.0, 0.01  # of a word's map over the patches; of the words by its entropy


@register("eadp")
class EADP(Reducer):
    """Keep the tokens that cover best what the question is about, as its words point to places of the picture.

    Paper: EADP (2026), https://github.com/SJTU-DeepVisionLab/EADP   Site: features   Needs: CLIP's text tower, the grid   Training: none

    global_i = - cos(end of the question, patch i), local_li = - cos(word l, patch i) in CLIP's shared space; p_l = softmax_i(100
    local_l) with entropy H_l. The floor(L / 2) words of lowest entropy count, w = softmax(-H / 0.01): dense_i = sum_l w_l local_li.
    s = (global + dense) / 2, scaled to [0, 1] for each picture, smoothed on the grid by a 3 x 3 Gaussian (sigma 1, reflected
    edges), to the power ``beta``. Then facility location with rows weighted by s and (cos + 1) / 2 of the patches' CLIP rows.
    ``relevance="embeddings"``: s is the likeness to the question in the language model's embeddings, and the cosines are the
    tokens'. tokens (G, N, D) -> kept (G, k).

    Accounting: tokens entering the language model.
    Cost: N^2 E for the similarities, N L E for the words, and CLIP's text tower once for each question.
    Differs from the authors' code: every picture separately; a question of one word counts that word; smoothing needs a
    whole grid.
    """

    sites = ("features", "projected")

    def __init__(self, beta: float = 1.0, relevance: Relevance = "clip"):
        super().__init__()
        if not (is_number(beta) and beta >= 0):
            raise ValueError(f"beta={shown(beta)} must be a number of at least 0")
        self.needs = check_relevance(relevance) | {Need.GRID}
        self.beta = beta
        self.relevance: Relevance = relevance

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        if self.relevance == "embeddings":
            score, rows = relevance(tokens, evidence, self.relevance), tokens
        else:
            rows = evidence.clip_patches()
            score = (relevance(tokens, evidence, "clip") + self._dense(rows, *evidence.clip_words())) / 2
        weight = _smoothed(min_max(score), *evidence.sides) ** self.beta
        return facility_location((similarity(rows) + 1) / 2, k, rows=weight)

    @staticmethod
    def _dense(patches: Tensor, words: Tensor, real: Tensor) -> Tensor:
        """What the words that point to a place say about each patch: (G, N)."""
        local = -similarity(words, patches)  # (G, L, N)
        entropy = torch.special.entr((SHARPNESS * local).softmax(-1)).sum(-1).masked_fill(~real, torch.inf)  # (G, L)
        rank = entropy.argsort(dim=1, stable=True).argsort(dim=1)
        pointing = rank < (real.sum(1, keepdim=True) // 2).clamp(min=1)
        share = (-entropy / CHOICE).masked_fill(~pointing, -torch.inf).softmax(-1)
        return (share[:, None] @ local)[:, 0]

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        own = prices.similarities(tokens, width, tokens + (text or 0)) if self.relevance == "embeddings" else 0
        return own + prices.coverage(tokens, kept)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        alike = prices.similarities(patches, prices.SHARED * width) if self.relevance == "clip" else 0
        return relevance_flops(self.relevance, patches, width) + alike


def _smoothed(score: Tensor, height: int, width: int) -> Tensor:
    """Scores (G, h w) on their grid, smoothed by a 3 x 3 Gaussian of sigma 1, edges reflected."""
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0], device=score.device) / 2)
    kernel = line[:, None] * line / line.sum() ** 2
    # A grid of one line has nothing to reflect
    mode = "reflect" if min(height, width) > 1 else "replicate"
    padded = F.pad(score.view(-1, 1, height, width), (1, 1, 1, 1), mode=mode)
    return F.conv2d(padded, kernel[None, None]).flatten(1)

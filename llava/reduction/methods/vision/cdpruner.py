from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ... import prices
from ...checks import check_choice, check_flag, is_number, shown
from ...evidence import Evidence
from ...registry import register
from ...relevance import Relevance, check_relevance, relevance, relevance_flops
from ...score import centred, similarity, uniqueness
from ...select import dpp
from ...stage import Reducer

Mode = Literal["paper", "code"]
FLOOR = 1e-6  # so that the least relevant token keeps some weight


@register("cdpruner")
class CDPruner(Reducer):
    """Keep tokens that are relevant to the question and unlike one another: a determinantal point process conditioned on it.

    Paper: https://arxiv.org/abs/2506.10967   Site: projected   Needs: CLIP's text tower   Training: none

    r_i = - mean over the question's segments of cos(CLIP patch i, CLIP text), (r - min + 1e-6) / (max - min) for each picture;
    S the cosines of the projected tokens; greedy maximum a posteriori of the kernel r_i S_ij r_j. ``theta`` in [0, 1) sharpens
    r to exp(theta / (2 (1 - theta)) r), the paper's trade-off. ``relevance="embeddings"`` compares the question in the language
    model's embeddings instead. ``centred=true`` is Cen-Prune's form: S of what is left without the picture's mean, and r times
    ``score.uniqueness``. tokens (G, N, D) -> kept (G, k). ``mode="code"``: minimum and maximum of the whole batch.

    Accounting: tokens entering the language model.
    Cost: N^2 D for the similarities, N E for the relevance, and CLIP's text tower once for each question.
    Differs from the authors' code: every picture separately, where theirs scales r over the batch and crosses every
    picture with all texts; exhausted volume never gives NaN; the patches are those of LLaVA's layer -2, with CLIP's
    last norm.
    """

    sites = ("projected", "features")

    def __init__(
        self,
        relevance: Relevance = "clip",
        theta: float | None = None,
        centred: bool = False,
        mode: Mode = "paper",
    ):
        super().__init__()
        self.needs = check_relevance(relevance)
        if theta is not None and not (is_number(theta) and 0 <= theta < 1):
            raise ValueError(f"theta={shown(theta)} must be a number of at least 0 and below 1, or None")
        check_flag("centred", centred)
        check_choice("mode", mode, get_args(Mode))
        self.relevance: Relevance = relevance
        self.theta, self.centred, self.mode = theta, centred, mode

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        near = relevance(tokens, evidence, self.relevance)  # (G, N)
        low, high = near.aminmax() if self.mode == "code" else near.aminmax(dim=1, keepdim=True)
        quality = (near - low + FLOOR) / (high - low).clamp(min=FLOOR)
        if self.theta is not None:
            quality = (self.theta / (2 * (1 - self.theta)) * quality).exp()
        if not self.centred:
            return dpp(similarity(tokens), k, quality)
        return dpp(similarity(centred(tokens)), k, quality * uniqueness(similarity(tokens)))

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        question = prices.similarities(tokens, width, text or 0) if self.relevance == "embeddings" else 0
        alike = prices.similarities(tokens, width) * (2 if self.centred else 1)
        return alike + prices.determinant(tokens, kept) + question

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return relevance_flops(self.relevance, patches, width)

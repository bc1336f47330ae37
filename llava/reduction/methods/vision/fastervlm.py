from __future__ import annotations

from torch import Tensor

from ...evidence import Evidence
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...score import mean_heads
from ...select import topk
from ...stage import Reducer


@register("fastervlm")
class FasterVLM(Reducer):
    """Keep the tokens that the tower's class token attends to most.

    Paper: https://arxiv.org/abs/2412.01818   Site: features   Needs: class token's attention of layer -2   Training: none

    Score: the class token's attention after the softmax, its own column left out, mean over the heads. tokens (G, N, D) ->
    kept (G, k). ``saliency``: what stands for it, see ``llava.reduction.saliency``.

    Accounting: tokens entering the language model.
    Cost: keys and one query of a layer of the tower, 2 (N + 2) D^2.
    Differs from the authors' code: the projector runs on what is kept alone, which gives the same rows; crops share the budget
    of their picture, theirs is for each crop (``per=crop``).
    """

    sites = ("features", "projected")
    tower_layers = (-2,)

    def __init__(self, saliency: Saliency = "cls"):
        super().__init__()
        self.needs = check_saliency(saliency)
        self.saliency: Saliency = saliency

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return topk(mean_heads(saliency(evidence, self.saliency)), k)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return saliency_flops(self.saliency, patches, width)

from __future__ import annotations

from torch import Tensor

from ...checks import shown
from ...evidence import Evidence, Need
from ...learned.base import Merger
from ...learned.pooled import LearnableTokenMergerV3
from ...learned.scored import LearnableTokenMerger
from ...learned.trained import call_trained, load_trained
from ...registry import register
from ...stage import Reducer
from .custom_selection import CustomSelection

UNTRAINED = CustomSelection()


@register("merger")
class TrainedMerger(Reducer):
    """Merge the tower's own features to k by a trained module, before the projector runs once on those k.

    Paper: none, proposed for this project   Site: features   Needs: the question, where trained with one   Training: needed

    ``weights``: a folder written by ``llava.train.train_merger``, with a V1, V2 or V3 of ``llava.reduction.mergers``; without
    it the untrained V3, which is ``custom_selection@features``. tokens (G, N, D) -> kept (G, k), merged (G, k, D). Raises ValueError where
    the widths of module and model differ.
    Accounting: after layer K.
    Cost: see the three versions; V3 of d_internal d is about 2 N D d + 2 k N d + k (8 d^2 + d D) multiply-adds.
    Differs from the authors' code: see ``llava.reduction.mergers``.
    """

    sites = ("features",)
    merges = True
    least_keep = 1

    def __init__(self, weights: str | None = None, module: Merger | None = None):
        super().__init__()
        if module is not None and not isinstance(module, Merger):
            raise ValueError(f"module={shown(module)} must be a Merger; a folder of one is weights=FOLDER")
        self.weights = None if weights is None else str(weights)
        self.module: Merger | None = module
        if weights is not None:
            self.module = load_trained(weights, LearnableTokenMerger, LearnableTokenMergerV3)
        if self.module is not None and self.module.needs_question:
            self.needs = frozenset({Need.QUESTION})

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        if self.module is None:
            kept = UNTRAINED.select(tokens, evidence, k).sort(dim=1).values
            evidence.notes["merged"] = UNTRAINED.aggregate(tokens, kept, evidence)
            return kept
        about = evidence.question if self.module.needs_question else None
        question, mask = about or (None, None)
        merged = call_trained(self.module, tokens, question, mask, keep=k)
        evidence.notes["merged"] = merged["merged_features"]
        return merged["merge_indices"]

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        return evidence.notes.pop("merged")

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        if self.module is None:
            return UNTRAINED.flops(rows, tokens, kept, width, text)
        return self.module.flops(tokens, kept)

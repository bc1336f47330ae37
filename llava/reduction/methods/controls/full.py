from __future__ import annotations

import torch
from torch import Tensor

from ...evidence import Evidence
from ...registry import register
from ...stage import Reducer


@register("full")
class Full(Reducer):
    """Keep every token: the reference, and as a stage in the decoder the overhead of the reduction code.

    Paper: none, a control   Site: any   Needs: nothing   Training: none
    Accounting: none.
    Cost: none.   Differs from the authors' code: no authors.
    """

    wants_keep = False

    def select(self, tokens: Tensor, evidence: Evidence, k: int | None) -> Tensor:
        return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)

from __future__ import annotations

import torch
from torch import Tensor

from ...evidence import Evidence
from ...registry import register
from ...stage import Reducer


@register("blind")
class Blind(Reducer):
    """Keep no token: what the language model knows without the picture.

    Paper: none, a control   Site: any   Needs: nothing   Training: none
    Accounting: none.
    Cost: none.   Differs from the authors' code: no authors.
    """

    wants_keep = False

    def left(self, tokens: int, k: int | None) -> int:
        return 0

    def select(self, tokens: Tensor, evidence: Evidence, k: int | None) -> Tensor:
        return torch.zeros(len(tokens), 0, dtype=torch.long, device=tokens.device)

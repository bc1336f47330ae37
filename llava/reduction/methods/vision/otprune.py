from __future__ import annotations

import torch
from torch import Tensor

from ... import prices
from ...checks import is_number, shown
from ...evidence import Evidence
from ...registry import register
from ...select import dpp
from ...stage import Reducer


@register("otprune")
class OTPrune(Reducer):
    """Keep the tokens whose Gaussian is nearest to that of all tokens: the greedy largest determinant of I + gamma X X^T.

    Paper: OTPrune (2026), optimal transport between the kept and all tokens   Site: projected   Needs: nothing   Training: none

    K = I + ``gamma`` X X^T of the tokens X as they enter the language model; greedy maximum of det K over k tokens
    (``llava.reduction.select.dpp``). tokens (G, N, D) -> kept (G, k).

    Accounting: tokens entering the language model.
    Cost: N^2 D for the kernel; the choice is element-wise, k^2 N.
    Differs from the authors' code: every picture separately; the kernel in float32.
    """

    sites = ("projected", "features", "prompt")

    def __init__(self, gamma: float = 0.01):
        super().__init__()
        if not (is_number(gamma) and gamma > 0):
            raise ValueError(f"gamma={shown(gamma)} must be a number above 0")
        self.gamma = gamma

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        rows = tokens.float()
        kernel = self.gamma * rows @ rows.transpose(1, 2)
        return dpp(kernel + torch.eye(tokens.shape[1], device=tokens.device), k)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.similarities(tokens, width) + prices.determinant(tokens, kept)

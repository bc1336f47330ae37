from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ...checks import check_choice
from ...evidence import Evidence, Need
from ...registry import register
from ...stage import Reducer

Mode = Literal["paper", "code"]


@register("m3")
class M3(Reducer):
    """Average the picture's grid in square cells, at one of the nested scales that the model was trained for.

    Paper: https://arxiv.org/abs/2405.17430   Site: projected   Needs: the grid   Training: the language model, on all scales

    Cells of c x c tokens, c = sqrt(N / k): k of 1, 9, 36, 144 or 576 on 24 x 24. tokens (G, N, D) -> means (G, k, D). A model
    that was not trained so gets plain pooling; any number of cells is ``pool``'s. ``mode="code"`` takes every budget: c is
    floor(sqrt(N / k)), and what does not fill a cell is left out.

    Accounting: tokens entering the language model.
    Cost: N D additions.
    Differs from the authors' code: a budget that is no number of square cells raises.
    """

    needs = frozenset({Need.GRID})
    sites = ("projected", "features", "prompt")
    merges = True
    least_keep = 1

    def __init__(self, mode: Mode = "paper"):
        super().__init__()
        check_choice("mode", mode, get_args(Mode))
        self.mode = mode

    def left(self, tokens: int, k: int | None) -> int:
        side = math.isqrt(tokens)
        if self.mode == "code" and k:
            return (side // math.isqrt(tokens // k)) ** 2
        if k and side * side == tokens:
            self._check(side, side, k)
        return tokens if k is None else k

    @staticmethod
    def _check(height: int, width: int, k: int) -> None:
        """Raises ValueError where k square cells do not fill the grid."""
        sides = [side for side in range(1, min(height, width) + 1) if height % side == width % side == 0]
        allowed = [height * width // (side * side) for side in reversed(sides)]
        if k not in allowed:
            raise ValueError(
                f"keep={k} of m3 is no number of equal square cells of {height} x {width}; give"
                f" {', '.join(map(str, allowed))} for each crop, or mode=code, which leaves out what fills no cell"
            )

    def _cell(self, evidence: Evidence, k: int) -> int:
        """The side of a cell."""
        height, width = evidence.sides
        if self.mode == "paper":
            self._check(height, width, k)
        return max(1, int(math.sqrt(height * width / k)))

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        (height, width), cell = evidence.sides, self._cell(evidence, k)
        evidence.notes["cell"] = cell
        rows, columns = (
            torch.arange(side // cell, device=tokens.device) * cell + cell // 2 for side in (height, width)
        )
        return (rows[:, None] * width + columns).flatten().expand(len(tokens), -1)

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        grid = tokens.transpose(1, 2).unflatten(2, evidence.sides)
        return F.avg_pool2d(grid, evidence.notes["cell"]).flatten(2).transpose(1, 2)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return tokens * width

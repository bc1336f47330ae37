from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...aggregate import Merged, gather
from ...checks import check_choice, check_flag, is_number, shown
from ...registry import register
from ...stage import Reducer

Mode = Literal["paper", "code"]
BLOCKS, HEADS = 24, 16  # of CLIP ViT-L, for the price


def soft_matching(keys: Tensor, count: int, protected: int = 0) -> tuple[Tensor, Tensor]:
    """Which rows become one when ``count`` of (G, n, d) are merged away: (member (G, n), origin (G, n')), n' = n - count.

    Rows 0, 2, 4, ... are A, the others B; the ``count`` rows of A that are most like a row of B join it. What is left is A
    without them, then B; ``member`` says into which of these each row went, ``origin`` which row each of them was. With
    1 ``protected`` row the first stays separate, with 2 (a class and a distillation token) also the second. ``count``
    is at most (n - protected) // 2. Without protected rows those left of A come in falling order of their best cosine.
    """
    rows = keys.shape[1]
    count = min(count, (rows - protected) // 2)
    unit = normalize(keys.float(), dim=-1)
    alike = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)  # (G, A, B)
    if protected:
        alike[:, 0] = -torch.inf
    if protected > 1:
        alike[:, :, 0] = -torch.inf
    best, target = alike.max(-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    leaving, staying = order[:, :count], order[:, count:]
    if protected:
        staying = staying.sort(dim=1).values
    receiving = torch.arange(1, rows, 2, device=keys.device).expand(len(keys), -1)
    origin = torch.cat([2 * staying, receiving], dim=1)
    if protected > 1:  # both tokens come first
        second = staying.shape[1]
        origin = torch.cat(
            [origin[:, :1], origin[:, second : second + 1], origin[:, 1:second], origin[:, second + 1 :]], dim=1
        )
    place = torch.arange(origin.shape[1], device=keys.device).expand_as(origin)
    member = torch.empty_like(keys[..., 0], dtype=torch.long).scatter(1, origin, place)
    return member.scatter(1, 2 * leaving, member.gather(1, 1 + 2 * target.gather(1, leaving))), origin


def merge_sizes(count: float, layers: int, inflect: float = 0.0) -> list[int]:
    """How many tokens each layer merges away, ``count`` on average, along a line: 1 rises from 0, -1 falls to 0."""
    first = int(count * (1 - inflect))
    step = (2 * count - 2 * first) / max(layers - 1, 1)
    return [int(first + step * layer) for layer in range(layers)]


@register("tome")
class ToMe(Reducer):
    """Merge, in every layer of the tower, the tokens whose keys are most alike.

    Paper: https://arxiv.org/abs/2210.09461   Site: tower   Needs: keys of every layer of the tower   Training: none

    Between attention and feed-forward of each layer the head-mean keys are normalised, every second row is matched with the
    most similar of the others (``soft_matching``), and the r best pairs become their size-weighted mean, until ``keep`` of a
    crop's tokens are left. r is the same in every layer, or falls or rises along a line with ``inflect`` from -1 to 1. In the
    next layers a merged token's key weighs log(size) more (``proportional``). The class token is never merged. (G, N, V) ->
    (G, k, V). ``mode="code"``: tokens leave in the order of the released code, unmerged before receiving; else in raster order.

    Accounting: tokens entering the language model, of each crop.
    Cost: n^2 d / 2 per layer for d the width of a head; saves what the tower's later layers would have computed.
    Differs from the authors' code: exactly ``keep`` tokens are left; ties go to the earlier row.
    """

    sites = ("tower",)
    merges = True
    least_keep = 1

    def __init__(self, inflect: float = 0.0, proportional: bool = True, mode: Mode = "paper"):
        super().__init__()
        if not (is_number(inflect) and -1 <= inflect <= 1):
            raise ValueError(f"inflect={shown(inflect)} must be a number between -1 and 1")
        check_flag("proportional", proportional)
        check_choice("mode", mode, get_args(Mode))
        self.inflect, self.proportional, self.mode = inflect, proportional, mode
        self.weighs_sizes, self.in_raster_order = proportional, mode == "paper"

    def tower_steps(self, tokens: int, keep: int, layers: int) -> list[int]:
        if tokens > keep * 2**layers:
            raise ValueError(
                f"keep={keep} of tome: each of the {layers} layers that run can merge half of its tokens, so at least"
                f" {-(-tokens // 2**layers)} of {tokens} are left; keep more"
            )
        wanted, left, steps = merge_sizes((tokens - keep) / layers, layers, self.inflect), tokens, []
        for layer in range(layers):
            # What truncation has left over goes to the first layers, and no layer leaves more than the rest can halve
            count = max(wanted[layer], left - keep - sum(wanted[layer + 1 :]), left - keep * 2 ** (layers - layer - 1))
            steps.append(min(count, left - keep, left // 2))
            left -= steps[-1]
        return steps

    def merge_in_tower(self, tokens: Tensor, keys: Tensor, sizes: Tensor, count: int, protected: int) -> Merged:
        member, origin = soft_matching(keys, count, protected)
        weight, index = sizes[..., None].to(tokens), member[..., None]
        total = torch.zeros_like(gather(weight, origin)).scatter_add(1, index, weight)
        summed = torch.zeros_like(gather(tokens, origin)).scatter_add(1, index.expand_as(tokens), tokens * weight)
        return Merged(summed / total, origin, total[..., 0])

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return BLOCKS * 2 * (tokens / 2) ** 2 * width / HEADS

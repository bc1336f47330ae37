from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...checks import check_choice, check_whole
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...select import topk
from ...stage import Reducer

Mode = Literal["paper", "code"]


@register("dart")
class DART(Reducer):
    """Keep a few pivot tokens, and of the others those least like each pivot, so that no duplicates are left.

    Paper: https://arxiv.org/abs/2502.11494   Site: layer K (2)   Needs: keys of layer K-1, hidden states   Training: none

    Pivots: the ``image_pivots`` image tokens and ``text_pivots`` text tokens after the image with the largest L1 norm
    of their rotated keys in layer K-1. Each in turn takes an equal part of k - image pivots: the image tokens not yet
    taken whose hidden states, after the model's final norm, have the lowest cosine to its own. tokens (G, N, D) ->
    kept (G, k). ``mode="code"``: pivots come in the order of a Python set of their positions, and 8 floor(k / 8) + 4
    tokens stay.

    Accounting: tokens after layer K.
    Cost: p N D for p pivots; no attention is read.
    Differs from the authors' code: exactly k tokens stay, pivots come by their norms, image before text; batches. A sample with
    too little text takes image pivots again.
    """

    needs = frozenset({Need.ATTENTION, Need.TEXT})
    sites = ("layer",)
    default_layer = 2

    def __init__(self, image_pivots: int = 4, text_pivots: int = 4, mode: Mode = "paper"):
        super().__init__()
        check_whole("image_pivots", image_pivots, 1)
        check_whole("text_pivots", text_pivots, 0)
        check_choice("mode", mode, get_args(Mode))
        self.image_pivots, self.text_pivots, self.mode = image_pivots, text_pivots, mode

    def left(self, tokens: int, k: int | None) -> int:
        if k is None or self.mode == "paper":
            return tokens if k is None else k
        pivots = self.image_pivots + self.text_pivots
        return min(tokens, k // pivots * pivots + self.image_pivots)

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        k = self.left(tokens.shape[1], k)
        (words, real), images = evidence.text(), min(self.image_pivots, k)
        image = topk(_norms(*evidence.keys("image")), images)
        text = topk(_norms(*evidence.keys("text")), min(self.text_pivots, words.shape[1]))
        missing = ~real.gather(1, text)
        states = torch.cat([tokens, words], dim=1)
        fallback = image[:, torch.arange(text.shape[1], device=image.device) % images]
        pivots = torch.cat([image, torch.where(missing, fallback, text + tokens.shape[1])], dim=1)  # (G, P)
        if self.mode == "code":
            pivots = self._as_a_set(pivots, evidence)
        unit = normalize(evidence.normed(states).float(), dim=-1)
        return self._least_alike(unit[:, : tokens.shape[1]], unit, pivots, image, k)

    @staticmethod
    def _least_alike(tokens: Tensor, states: Tensor, pivots: Tensor, image: Tensor, k: int) -> Tensor:
        """The image pivots, and what each pivot takes in turn: (G, k)."""
        count, left = pivots.shape[1], k - image.shape[1]
        taken = torch.zeros_like(tokens[..., 0], dtype=torch.bool).scatter(1, image, True)
        picked = [image]
        for number in range(count):
            own = states.gather(1, pivots[:, number, None, None].expand(-1, 1, states.shape[-1]))
            alike = (tokens @ own.transpose(1, 2))[..., 0].masked_fill(taken, torch.inf)
            picked.append(topk(-alike, left // count + (number < left % count)))
            taken = taken.scatter(1, picked[-1], True)
        return torch.cat(picked, dim=1)

    def _as_a_set(self, pivots: Tensor, evidence: DecoderEvidence) -> Tensor:
        """The pivots of each image in the order of a Python set of their positions in the prompt."""
        columns, _ = evidence.layer.text(evidence.group, "after")
        where = torch.cat([evidence.group.columns, columns], dim=1).gather(1, pivots)
        orders = [[row.index(place) for place in set(row)] for row in where.tolist()]
        return pivots.gather(1, torch.tensor(orders, device=pivots.device))

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return 2.0 * (self.image_pivots + self.text_pivots) * tokens * width


def _norms(keys: Tensor, real: Tensor) -> Tensor:
    """The L1 norm of keys (G, H, R, d) over heads and width: (G, R)."""
    return keys.float().abs().sum((1, 3)).masked_fill(~real, -torch.inf)

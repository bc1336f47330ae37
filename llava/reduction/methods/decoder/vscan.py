from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ... import clusters, prices
from ...aggregate import gather
from ...checks import check_flag, check_whole, is_number, shown
from ...evidence import Evidence, Need
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...schedule import TOKENS, scaled_layers
from ...score import mean_heads
from ...select import topk
from ...stage import Reducer, Stage
from .pyramiddrop import PyramidDrop

PUBLISHED, LABEL = 16, 192


@register("vscan")
class VScan(Reducer):
    """Keep what a deep layer of the tower attends to and the best of every window by a shallow one; fewer from the middle on.

    Paper: https://arxiv.org/abs/2505.22654   Site: features, then layer 16 of 32   Needs: class token's attention of layers 5 and -2, the grid   Training: none

    round(k ``share``) tokens have the highest head-mean attention of the class token in layer -2. The others come from windows of
    ``window`` x ``window`` tokens: of what is left, the best of every window by layer ``shallow``, then the second
    best, and so on; a round that is cut short gives its highest. With ``merge`` each dropped token joins the kept one
    of the highest cosine, which becomes the mean of its members. In the middle of the decoder the last token's
    attention in the layer that is about to run keeps a third of them (``pyramiddrop``), and positions are renumbered.
    The name alone is label 192; a budget is the mean over the layers: 1.5 times as many tokens enter, half as many are
    left. tokens (G, N, D) -> (G, k, D). ``saliency``: what stands for the class token's attention, see
    ``llava.reduction.saliency``.

    Accounting: mean over the layers.
    Cost: keys and one query of two layers of the tower, N k D for the merge; at layer 16 keys of all rows and one query row.
    Differs from the authors' code: written from the paper; batches; ties go to the lower index.
    """

    sites = ("features", "projected")
    scheduled = True
    default_positions = "compact"
    merges = True

    def __init__(
        self,
        share: float = 0.5,
        window: int = 6,
        shallow: int = 5,
        merge: bool = True,
        saliency: Saliency = "cls",
    ):
        super().__init__()
        if not (is_number(share) and 0 <= share <= 1):
            raise ValueError(f"share={shown(share)} must be a share between 0 and 1")
        check_whole("window", window, 1)
        check_whole("shallow", shallow, 0)
        check_flag("merge", merge)
        self.needs = check_saliency(saliency) | {Need.GRID}
        self.share, self.window, self.shallow, self.merge = share, window, shallow, merge
        self.saliency: Saliency = saliency
        self.tower_layers = (shallow, -2)

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        wanted = LABEL if keep is None else keep
        most = TOKENS if isinstance(wanted, int) else 1.0
        entering = min(most, round(1.5 * wanted) if isinstance(wanted, int) else 1.5 * wanted)
        left = 2 * wanted - entering
        if isinstance(entering, float):
            left = left / entering if entering else 0.0
        (middle,) = scaled_layers([PUBLISHED], layers)
        return [
            Stage(self, "features", keep=entering),
            Stage(PyramidDrop(), "layer", middle, left, positions=self.default_positions),
        ]

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        deep, shallow = (mean_heads(saliency(evidence, self.saliency, layer)) for layer in (-2, self.shallow))
        whole = topk(deep, round(k * self.share))
        taken = torch.zeros_like(deep, dtype=torch.bool).scatter(1, whole, True)
        return torch.cat([whole, self._local(shallow, taken, evidence.sides, k - whole.shape[1])], dim=1)

    def _local(self, attention: Tensor, taken: Tensor, sides: tuple[int, int], count: int) -> Tensor:
        """``count`` tokens that are not taken, the windows in turn, by attention (G, N)."""
        number = torch.arange(attention.shape[1], device=attention.device)
        row, column = number // sides[1] // self.window, number % sides[1] // self.window
        windows = row * -(-sides[1] // self.window) + column  # (N,)
        order = topk(attention.masked_fill(taken, -torch.inf), attention.shape[1])
        window = windows[order]  # (G, N)
        place = one_hot(window).cumsum(1).gather(2, window[..., None])[..., 0]  # within its window
        place = place.masked_fill(taken.gather(1, order), attention.shape[1] + 1)
        return order.gather(1, topk(-place, count))

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        if not self.merge or kept.shape[1] == tokens.shape[1]:
            return gather(tokens, kept)
        return clusters.means(tokens, clusters.nearest_kept(tokens, kept), kept.shape[1])

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return 2 * prices.similarities(tokens, width, kept) if self.merge and kept < tokens else 0.0

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return 2 * saliency_flops(self.saliency, patches, width)

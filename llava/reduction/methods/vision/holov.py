from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...aggregate import Merged, gather
from ...checks import check_choice, check_whole
from ...evidence import Evidence
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...score import mean_heads
from ...select import topk
from ...stage import Reducer

Mode = Literal["paper", "code"]


@register("holov")
class HoloV(Reducer):
    """Give every strip of the picture a share of the budget by its attention, and keep the most attended tokens of each.

    Paper: https://arxiv.org/abs/2510.02912   Site: projected   Needs: class token's attention of layer -2   Training: none

    ``chunks`` runs of tokens in raster order (the first N mod P are one longer) share the budget by their mean attention:
    floor(share k), and one more for those with the largest shares until k is reached; within a run the highest stay. A run
    that is full gives what is over to the others. The paper's variance term is scaled by its own mean and cancels: chunk
    scores are mean attention alone. tokens (G, N, D) -> kept (G, k). ``saliency``: see ``llava.reduction.saliency``.
    ``mode="code"``: what is over in a full run is lost, zero rows fill the budget, and rows come in the order of the runs.

    Accounting: tokens entering the language model.
    Cost: keys and one query of a layer of the tower.
    Differs from the authors' code: no zero rows and raster order in ``mode="paper"``; any number of runs.
    """

    sites = ("projected", "features")
    tower_layers = (-2,)
    merges = True

    def __init__(self, chunks: int = 16, mode: Mode = "paper", saliency: Saliency = "cls"):
        super().__init__()
        check_whole("chunks", chunks, 1)
        check_choice("mode", mode, get_args(Mode))
        self.needs = check_saliency(saliency)
        self.chunks, self.mode = chunks, mode
        self.saliency: Saliency = saliency

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        chosen, _ = self._chosen(evidence, k)
        # What the released code fills with zeros stands in the place of the first tokens that are not kept
        return topk(chosen.float(), k)

    def _chosen(self, evidence: Evidence, k: int) -> tuple[Tensor, Tensor]:
        """Which tokens (G, N) their run keeps, and where each comes run by run: by attention, in a run kept whole as it lies."""
        attention = mean_heads(saliency(evidence, self.saliency))  # (G, N)
        images, tokens = attention.shape
        count = min(self.chunks, tokens)
        number = torch.arange(tokens, device=attention.device)
        sizes = tokens // count + (number[:count] < tokens % count)
        run = number[:count].repeat_interleave(sizes, output_size=tokens)
        mean = torch.zeros(images, count, device=attention.device).index_add(1, run, attention) / sizes
        quota = self._quota(mean, sizes, k).gather(1, run.expand(images, -1))  # (G, N)
        order = topk(attention, tokens)
        by_run = order.gather(1, run[order].argsort(dim=1, stable=True))
        place = torch.zeros_like(by_run).scatter(1, by_run, number.expand_as(by_run))  # (G, N)
        chosen = place - (sizes.cumsum(0) - sizes)[run] < quota
        return chosen, torch.where(quota >= sizes[run], number, place)

    def _quota(self, mean: Tensor, sizes: Tensor, k: int) -> Tensor:
        """How many tokens each run (G, P) keeps."""
        full = torch.zeros_like(mean, dtype=torch.bool)
        for _ in range(mean.shape[1] if self.mode == "paper" else 1):
            left = k - (full * sizes).sum(1, keepdim=True)
            share = mean.masked_fill(full, 0)
            share = share / share.sum(1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
            quota = (share * left).floor().long()
            over = (quota > sizes) & ~full if self.mode == "paper" else torch.zeros_like(full)
            full = full | over
        quota = torch.where(full, sizes, quota)
        room = share.masked_fill(quota >= sizes, -1) if self.mode == "paper" else share
        place = topk(room, mean.shape[1]).argsort(dim=1)
        return quota + (place < k - quota.sum(1, keepdim=True))

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor | Merged:
        if self.mode == "paper":
            return gather(tokens, kept)
        chosen, place = self._chosen(evidence, kept.shape[1])
        order = place.masked_fill(~chosen, tokens.shape[1]).argsort(dim=1, stable=True)[:, : kept.shape[1]]
        real = chosen.gather(1, order)
        return Merged(gather(tokens, order) * real[..., None], order)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return saliency_flops(self.saliency, patches, width)

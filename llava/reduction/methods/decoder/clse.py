from __future__ import annotations

import torch
from torch import Tensor

from ... import prices
from ...checks import check_flag
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...schedule import label_counts, scaled_layers
from ...score import mean_heads
from ...select import topk
from ...stage import Reducer, Stage

PUBLISHED = (1, 11, 21)
LABELS = {192: (330, 210, 62), 128: (220, 140, 41), 64: (110, 70, 20)}
PASSED, SLOPE, TINY = 0.1, 0.1, 1e-6


@register("clse")
class CLSE(Reducer):
    """Keep the image tokens that the last token attends to and whose fine detail the first layers have changed.

    Paper: CLSE (2026), https://github.com/zjubinchen/CLSE   Site: layers 1, 11 and 21 of 32   Needs: attention of layer K-1, last row, input embeddings, the grid   Training: none

    At the first stage with ``evolution``: s = channel mean of |ifft2(fft2(h) (1 - Gauss))| on the grid, the Gaussian of width 0.1 in
    frequency, of the states s_1 and of the embeddings s_0; z the standardised min(1, |s_1 - s_0| / (mean s_0 + s_0 + 1e-6));
    score = sigmoid(z / 0.1) times the head-mean attention of the last prompt token in layer K-1. Later stages take attention alone.
    The name alone is label 192; labels 192, 128 and 64 are the authors' lists, others lie between. tokens (G, N, D) -> kept (G, k).

    Accounting: mean over the layers; the labels are less than the true means.
    Cost: one query row, 2 d^2 + 2 S d; two Fourier transforms of the first stage, N log N d.
    Differs from the authors' code: batches. Pictures that lie on no grid at the first stage raise.
    """

    sites = ("layer",)
    scheduled = True
    default_layer = 1

    def __init__(self, evolution: bool = False):
        super().__init__()
        check_flag("evolution", evolution)
        self.evolution = evolution
        seen = {Need.ATTENTION, Need.EMBEDDINGS, Need.GRID} if evolution else {Need.ATTENTION}
        self.needs = frozenset(seen)

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        counts = label_counts(192 if keep is None else keep, LABELS)
        places = zip(scaled_layers(PUBLISHED, layers), counts)
        return [Stage(CLSE(evolution=not number), "layer", *place) for number, place in enumerate(places)]

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        attention = mean_heads(evidence.attention("last"))
        if not self.evolution:
            return topk(attention, k)
        entered, _ = evidence.embeddings("image")
        first, now = (_detail(states, *evidence.sides) for states in (entered, tokens))
        change = ((now - first).abs() / (first.mean(1, keepdim=True) + first + TINY)).clamp(max=1)
        z = (change - change.mean(1, keepdim=True)) / change.std(1, keepdim=True).clamp(min=TINY)
        return topk((z / SLOPE).sigmoid() * attention, k)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.attention_rows(1, rows, width)


def _detail(states: Tensor, height: int, width: int) -> Tensor:
    """How much fine detail each token (G, N, D) has: the channel mean of what a Gaussian low-pass leaves out, (G, N)."""
    spectrum = torch.fft.fft2(states.float().unflatten(1, (height, width)), dim=(1, 2))
    down, across = (torch.fft.fftfreq(side, device=states.device) for side in (height, width))
    passed = (-(down[:, None].square() + across.square()) / (2 * PASSED**2)).exp()
    return torch.fft.ifft2(spectrum * (1 - passed)[..., None], dim=(1, 2)).abs().mean(-1).flatten(1)

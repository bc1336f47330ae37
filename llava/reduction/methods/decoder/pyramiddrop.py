from __future__ import annotations

from torch import Tensor

from ... import prices
from ...checks import shown
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...schedule import scaled_layers, share_for
from ...score import mean_heads
from ...select import topk
from ...stage import Reducer, Stage

PUBLISHED = (8, 16, 24)


@register("pyramiddrop")
class PyramidDrop(Reducer):
    """Keep half of the image tokens, three times in turn, by the last token's attention in the layer about to run.

    Paper: https://arxiv.org/abs/2410.17247   Site: layers 8, 16 and 24 of 32   Needs: attention of the layer itself, last row   Training: none

    Before layer K its input norm and projections are applied to the rows that arrive, s_n = mean over the heads of the last
    prompt token's attention, and the highest stay; positions are renumbered. The name alone is the published plan: a half
    at each of the three layers. A budget is the mean over the layers: ``pyramiddrop:0.5`` keeps at each stage that share r
    for which (8 + 8 r + 8 r^2 + 8 r^3) / 32 = 0.5, and a count is read as a share of 576 tokens; ``layers`` ("2-8-16") sets
    other stages. Explicit stages are written ``pyramiddrop@8:288 + ...``. tokens (G, N, D) -> kept (G, k).

    Accounting: mean over the layers.
    Cost: keys of all rows and one query row, 2 S d^2 + 2 d^2 + 2 S d per stage.
    Differs from the authors' code: batches with padding, and grouped keys; a stage keeps round(n r) of the n that arrive, theirs
    int(N r) of the first N, the same at powers of two.
    """

    needs = frozenset({Need.ATTENTION})
    sites = ("layer",)
    scheduled = True
    default_positions = "compact"

    def __init__(self, layers: str = "-".join(map(str, PUBLISHED))):
        super().__init__()
        parts = layers.split("-") if isinstance(layers, str) else []
        if not parts or not all(part.isdecimal() for part in parts):
            raise ValueError(f"layers={shown(layers)} must be layers of 32 joined by dashes, like 8-16-24")
        self.layers = layers

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        published = [int(part) for part in self.layers.split("-")]
        share = 0.5 if keep is None else share_for(keep, published, "pyramiddrop")
        return [Stage(self, "layer", layer, share) for layer in scaled_layers(published, layers)]

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        return topk(mean_heads(evidence.attention("last", back=0)), k)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.attention_rows(1, rows, width, keys=True)

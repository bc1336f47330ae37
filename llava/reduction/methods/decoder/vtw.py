from __future__ import annotations

from ...registry import register
from ...schedule import scaled_layers
from ...stage import Stage
from ..controls.blind import Blind

PUBLISHED = (15,)


@register("vtw")
class VTW(Blind):
    """Take all image tokens away at a layer in the middle, after which only the text goes on.

    Paper: https://arxiv.org/abs/2405.05803   Site: layer 15 of 32   Needs: nothing   Training: none

    Layers 0 to K - 1 see everything, K and after none of the picture; text keeps its positions. The name alone is layer 15 of 32;
    ``vtw@K`` another. The paper finds K on a few samples, where the output's divergence from the full model's is small.

    Accounting: mean over the layers.
    Cost: none.
    Differs from the authors' code: batches with padding, and any attention.
    """

    sites = ("layer",)
    scheduled = True

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        return [Stage(self, "layer", layer) for layer in scaled_layers(PUBLISHED, layers)]

"""FastV as a Llama model of its own, with the authors' attributes."""

from __future__ import annotations

from llava.reduction import Stage

from .knobs import Knob, fastv_stage
from .reducible_llama import ReducibleLlamaModel


class Fastv_LlamaModel(ReducibleLlamaModel):  # noqa: N801  public name fixed by the documents
    """Llama with FastV (https://arxiv.org/abs/2403.06764): after layer K-1, keep the image tokens the last token looks at.

    The ``fast_v_*`` knobs are attributes of the same names, and live: every prefill follows their current values. The
    authors' code must be given the image's place and ``reset_fastv()`` after every change; here None reads the place from
    the prompt and the reset only forgets what the last prefill kept. Raises ValueError as ``LlamaConfig`` does.
    """

    use_fast_v = Knob()
    fast_v_sys_length = Knob()
    fast_v_image_token_length = Knob()
    fast_v_attention_rank = Knob()
    fast_v_agg_layer = Knob()
    fast_v_inplace = Knob()
    fast_v_placement = Knob()

    def stages(self) -> list[Stage]:
        if self.use_fast_v is not True:
            return super().stages()
        self.config.check_reduction()
        return [fastv_stage(self.config, "avg_all_heads", alpha=0.5)]

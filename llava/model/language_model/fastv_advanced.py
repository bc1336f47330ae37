"""FastV with three ways to read the heads (document 002)."""

from __future__ import annotations

from llava.reduction import Stage

from .fastv import Fastv_LlamaModel
from .knobs import Knob, plan_from_config


class FastvAdvanced_LlamaModel(Fastv_LlamaModel):  # noqa: N801  public name fixed by the documents
    """FastV whose score is the mean of all heads, the strongest head, or a weighted mixture of it with the others.

    ``token_selection_method`` ("avg_all_heads", "max_head", "weighted_combination"; also "adaptive" and document 004's
    "text_weighted") and ``weighted_alpha`` (also "focus") are live: every prefill follows their current values. After a
    prefill ``last_gen_attention_mask`` (B, S) bool on the CPU says which prompt tokens the layers from K on can see,
    ``last_gen_kept_indices`` which positions of the first sample are kept (numpy, ascending, text included),
    ``last_selection_metadata`` how they were chosen; before one: None, None, {}.
    """

    token_selection_method = Knob("fast_v_token_selection_method")
    weighted_alpha = Knob("fast_v_weighted_alpha")
    fast_v_diversity = Knob()
    fast_v_text = Knob()

    def stages(self) -> list[Stage]:
        return plan_from_config(self.config)

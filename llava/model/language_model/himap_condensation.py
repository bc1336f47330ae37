"""HiMAP's stages with condensation in place of hard pruning (document 000)."""

from __future__ import annotations

from torch import nn
from transformers import initialization

from llava.reduction import Stage
from llava.reduction.aggregate import CrossAttention, IdentityLinear

from .himap import Himap_LlamaModel
from .himap_configuration_llama import LlamaConfig
from .knobs import Knob, condensation_stage_count, plan_from_config


class HimapCondensation_LlamaModel(Himap_LlamaModel):  # noqa: N801  public name fixed by the documents
    """Llama that condenses its visual tokens at HiMAP's two layers, or at any number of them, with trainable modules.

    ``use_token_condensation`` switches it on; layers and ranks are ``hmap_v_attn_txt_*`` and ``hmap_v_attn_img_*``, or the
    lists ``condensation_layers`` and ``condensation_ranks``; from ``cut_off_layer`` on no image token is left. All knobs
    are live attributes. Every stage that the config names when the model is built has a ``CrossAttention`` of its own in
    ``condensation``, which begins as the identity, survives ``from_pretrained`` without weights for it, and can be
    trained; a model built without stages condenses without parameters, which is the same function. With ``use_hmap_v``
    alone it is HiMAP. Raises ValueError as ``LlamaConfig`` and ``Himap_LlamaModel`` do.
    """

    use_token_condensation = Knob()
    condensation_strategy = Knob()
    condensation_num_heads = Knob()
    condensation_layers = Knob()
    condensation_ranks = Knob()
    condensation_cover = Knob()

    # A module that no checkpoint has begins as the identity: that is how it is meant to begin, not something missing.
    _keys_to_ignore_on_load_missing = [r"(^|\.)condensation\."]

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        stages = condensation_stage_count(config) if config.use_token_condensation else 0
        self.condensation = nn.ModuleList(
            CrossAttention(config.hidden_size, config.condensation_num_heads) for _ in range(stages)
        )
        self.post_init()

    def stages(self) -> list[Stage]:
        return plan_from_config(self.config, self.condensation)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, IdentityLinear):
            initialization.eye_(module.weight)  # torch's own would overwrite what was loaded
        else:
            super()._init_weights(module)

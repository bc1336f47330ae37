"""LLaVA over Llama: the config, the decoder with its tower, and the causal language model that answers."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM

from llava.model.language_model.custom_token_selection import CustomTokenSelection_LlamaModel
from llava.model.language_model.fastv_advanced import FastvAdvanced_LlamaModel
from llava.model.language_model.himap_condensation import HimapCondensation_LlamaModel
from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.llava_family import LlavaFamilyConfig, LlavaFamilyForCausalLM, LlavaFamilyModel
from llava.model.language_model.reducible_llama import ReducibleLlamaForCausalLM, ReducibleLlamaModel
from llava.model.language_model.reduction_knobs import active_flags
from llava.model.llava_arch import LlavaMetaModel


class LlavaConfig(LlavaFamilyConfig, LlamaConfig):
    """A Llama config with every reduction knob; the multimodal fields `mm_*` and `image_*` are plain attributes."""

    model_type = "llava_llama"


class LlavaLlamaModel(LlavaFamilyModel, ReducibleLlamaModel):
    """The decoder with vision tower and projector."""

    config_class = LlavaConfig
    config: LlavaConfig


class LlavaLlamaForCausalLM(LlavaFamilyForCausalLM, ReducibleLlamaForCausalLM):
    """LLaVA: answers prompts with images, and can throw visual tokens away while it reads."""

    config_class = LlavaConfig
    config: LlavaConfig
    model_class = LlavaLlamaModel
    model: LlavaLlamaModel


class LlavaLlamaModel_FastvAdvanced(LlavaMetaModel, FastvAdvanced_LlamaModel):  # noqa: N801  as the documents name variants
    """The decoder with the attributes of document 002."""

    config_class = LlavaConfig


class LlavaLlamaForCausalLM_FastvAdvanced(LlavaLlamaForCausalLM):  # noqa: N801
    """LLaVA whose decoder shows FastV's documented attributes; `use_fast_v=True` loads it."""

    model_class = LlavaLlamaModel_FastvAdvanced


class LlavaLlamaModel_HimapCondensation(LlavaMetaModel, HimapCondensation_LlamaModel):  # noqa: N801
    """The decoder with the attributes and the trainable modules of document 000."""

    config_class = LlavaConfig


class LlavaLlamaForCausalLM_HimapCondensation(LlavaLlamaForCausalLM):  # noqa: N801
    """LLaVA with HiMAP's attributes and condensation; `use_hmap_v=True` or `use_token_condensation=True` loads it."""

    model_class = LlavaLlamaModel_HimapCondensation


class LlavaLlamaModel_CustomSelection(LlavaMetaModel, CustomTokenSelection_LlamaModel):  # noqa: N801
    """The decoder with the attributes of document 001."""

    config_class = LlavaConfig


class LlavaLlamaForCausalLM_CustomSelection(LlavaLlamaForCausalLM):  # noqa: N801
    """LLaVA whose decoder shows custom selection's documented attributes; `use_custom_selection=True` loads it."""

    model_class = LlavaLlamaModel_CustomSelection


VARIANTS: dict[str, type[LlavaLlamaForCausalLM]] = {
    "use_fast_v": LlavaLlamaForCausalLM_FastvAdvanced,
    "use_hmap_v": LlavaLlamaForCausalLM_HimapCondensation,
    "use_token_condensation": LlavaLlamaForCausalLM_HimapCondensation,
    "use_custom_selection": LlavaLlamaForCausalLM_CustomSelection,
}


def variant(config: LlavaConfig) -> type[LlavaLlamaForCausalLM]:
    """The class that shows the attributes documented for the method a config switches on; all compute the same."""
    return next((VARIANTS[flag] for flag in active_flags(config) if flag in VARIANTS), LlavaLlamaForCausalLM)


AutoConfig.register("llava_llama", LlavaConfig)
AutoModelForCausalLM.register(LlavaConfig, LlavaLlamaForCausalLM)

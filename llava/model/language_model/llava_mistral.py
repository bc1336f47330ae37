"""LLaVA over Mistral: LLaVA-1.6's decoder in v1.6-mistral-7b."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig, MistralForCausalLM, MistralModel

from llava.model.language_model.llava_family import LlavaFamilyConfig, LlavaFamilyForCausalLM, LlavaFamilyModel
from llava.model.language_model.reduction_knobs import with_knobs


@with_knobs
class LlavaMistralConfig(LlavaFamilyConfig, MistralConfig):
    """A Mistral config with every reduction knob; the multimodal fields `mm_*` and `image_*` are plain attributes."""

    model_type = "llava_mistral"


class LlavaMistralModel(LlavaFamilyModel, MistralModel):
    """The decoder with vision tower and projector."""

    config_class = LlavaMistralConfig
    config: LlavaMistralConfig


class LlavaMistralForCausalLM(LlavaFamilyForCausalLM, MistralForCausalLM):
    """LLaVA: answers prompts with images, and can throw visual tokens away while it reads."""

    config_class = LlavaMistralConfig
    config: LlavaMistralConfig
    model_class = LlavaMistralModel
    model: LlavaMistralModel


AutoConfig.register("llava_mistral", LlavaMistralConfig)
AutoModelForCausalLM.register(LlavaMistralConfig, LlavaMistralForCausalLM)

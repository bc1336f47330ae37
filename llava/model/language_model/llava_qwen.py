"""LLaVA over Qwen2: the decoder of LLaVA-NeXT's and llava-interleave's Qwen checkpoints."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from llava.model.language_model.llava_family import LlavaFamilyConfig, LlavaFamilyForCausalLM, LlavaFamilyModel
from llava.model.language_model.reduction_knobs import with_knobs


@with_knobs
class LlavaQwenConfig(LlavaFamilyConfig, Qwen2Config):
    """A Qwen2 config with every reduction knob; the multimodal fields `mm_*` and `image_*` are plain attributes."""

    model_type = "llava_qwen"


class LlavaQwenModel(LlavaFamilyModel, Qwen2Model):
    """The decoder with vision tower and projector."""

    config_class = LlavaQwenConfig
    config: LlavaQwenConfig


class LlavaQwenForCausalLM(LlavaFamilyForCausalLM, Qwen2ForCausalLM):
    """LLaVA: answers prompts with images, and can throw visual tokens away while it reads."""

    config_class = LlavaQwenConfig
    config: LlavaQwenConfig
    model_class = LlavaQwenModel
    model: LlavaQwenModel


AutoConfig.register("llava_qwen", LlavaQwenConfig)
AutoModelForCausalLM.register(LlavaQwenConfig, LlavaQwenForCausalLM)

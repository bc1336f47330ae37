"""Which classes a checkpoint's model_type means."""

from __future__ import annotations

from dataclasses import dataclass

from llava.model.language_model.llava_family import LlavaFamilyConfig, LlavaFamilyForCausalLM
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM, variant
from llava.model.language_model.llava_mistral import LlavaMistralConfig, LlavaMistralForCausalLM
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM


@dataclass(frozen=True)
class Family:
    """A family of decoders: its name, what checkpoints call it, and its classes."""

    name: str
    model_types: tuple[str, ...]
    config: type[LlavaFamilyConfig]
    model: type[LlavaFamilyForCausalLM]


FAMILIES = (
    Family("Llama", ("llava", "llava_llama", "llama"), LlavaConfig, LlavaLlamaForCausalLM),
    Family("Mistral", ("llava_mistral", "mistral"), LlavaMistralConfig, LlavaMistralForCausalLM),
    Family("Qwen2", ("llava_qwen", "qwen2"), LlavaQwenConfig, LlavaQwenForCausalLM),
)
SUPPORTED = "; ".join(f"{family.name} ({', '.join(family.model_types)})" for family in FAMILIES)


def family_of(model_type: object) -> Family | None:
    """The family that a model_type names; None for another."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def model_class(config: LlavaFamilyConfig) -> type[LlavaFamilyForCausalLM]:
    """The class of a config's model; of Llama's the one that shows the method that is switched on."""
    if isinstance(config, LlavaConfig):
        return variant(config)
    return next(family.model for family in FAMILIES if isinstance(config, family.config))

"""Llama with the engine below it and the documents' knobs above it."""

from __future__ import annotations

from transformers import LlamaForCausalLM, LlamaModel

from llava.model.hosts.decoder import ReducibleOutput

from .himap_configuration_llama import LlamaConfig
from .reducible_family import ReducibleFamily, ReducibleFamilyCausalLM

__all__ = ["ReducibleLlamaForCausalLM", "ReducibleLlamaModel", "ReducibleOutput"]


class ReducibleLlamaModel(ReducibleFamily, LlamaModel):
    """Llama whose visual tokens are reduced by a plan, as ``ReducibleFamily`` says."""

    config_class = LlamaConfig
    config: LlamaConfig


class ReducibleLlamaForCausalLM(ReducibleFamilyCausalLM, LlamaForCausalLM):
    """Llama with a language-model head over ``model_class``; labels follow the ledger through any reduction."""

    config_class = LlamaConfig
    model_class: type[ReducibleLlamaModel] = ReducibleLlamaModel

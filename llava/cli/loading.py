"""Loading a model as the settings describe it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM

from .settings import ModelSpec

Loaded = tuple[PreTrainedTokenizerBase, LlavaFamilyForCausalLM, BaseImageProcessor | None, int]


def load_model(spec: ModelSpec, **knobs: Any) -> Loaded:
    """``load_pretrained_model`` of a ModelSpec: (tokenizer, model, image_processor, context_len).

    knobs: reduction keywords, such as ``reduction="fastv@2:64"``. Raises what ``load_pretrained_model`` does.
    """
    return load_pretrained_model(
        spec.path,
        spec.base,
        spec.name,
        load_8bit=spec.bits == 8,
        load_4bit=spec.bits == 4,
        device=spec.device,
        torch_dtype=spec.dtype,
        attn_implementation=spec.attn,
        **knobs,
    )

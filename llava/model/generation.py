"""What ``generate`` is asked for, checked before a prompt is read: clear refusals instead of errors deep inside.

Prompts with images are handed to transformers as embeddings, so whatever in it looks at token ids finds none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import GenerationConfig
from transformers.generation.utils import GenerationMixin

from llava.model.keywords import FORWARD, named, refuse_unknown

logger = logging.getLogger(__name__)

# What reads token ids, or needs the prompt in pieces
REFUSED = {
    "assistant_model": "leave it out; prompt lookup and assistants read the ids of the prompt",
    "prompt_lookup_num_tokens": "leave it out; prompt lookup and assistants read the ids of the prompt",
    "guidance_scale": "leave it out; guidance needs a second prompt of ids",
    "negative_prompt_ids": "leave it out; guidance needs a second prompt of ids",
    "prefill_chunk_size": "leave it out; a reduction chooses from the whole prompt",
}


def check_generation(keywords: Mapping[str, Any], model: nn.Module) -> None:
    """Raises ValueError for a keyword that nobody reads, and for what a prompt of embeddings cannot do.

    For ``inputs_embeds`` it is a NotImplementedError, as LLaVA's own.
    """
    if keywords.get("inputs_embeds") is not None:
        raise NotImplementedError("inputs_embeds is not supported by generate; give input_ids and images")
    settings = keywords.get("generation_config")
    generate = GenerationMixin.generate  # pyright: ignore[reportAttributeAccessIssue]  read here, never bound
    known = FORWARD | named(model.forward) | named(generate) | set(vars(GenerationConfig()))
    refuse_unknown(f"{type(model).__name__}.generate", keywords, known | {"custom_generate", "streamer"})
    for name, cure in REFUSED.items():
        if keywords.get(name) is not None or getattr(settings, name, None) is not None:
            raise ValueError(f"generate cannot use {name}: prompts with images are embeddings; {cure}")
    for name in ("past_key_values", "cache"):
        cached = keywords.get(name)
        if cached is not None and cached.get_seq_length():
            raise ValueError(
                f"{name} holds {cached.get_seq_length()} positions already, but generate reads the whole prompt; give an empty "
                "cache, or go on from a cache with model(input_ids=..., past_key_values=...)"
            )
    if keywords.get("use_cache") is False:
        logger.warning("use_cache=False has no effect on generate: transformers always caches prompts of embeddings")


def check_length(keywords: Mapping[str, Any], prompt: int) -> None:
    """Raises ValueError for a ``max_length`` that a prompt of this many positions, images included, already fills."""
    limit = keywords.get("max_length")
    if limit is not None and keywords.get("max_new_tokens") is None and limit <= prompt:
        raise ValueError(
            f"max_length={limit} counts the prompt, which has {prompt} positions with its images; give max_new_tokens"
        )

"""One pass through any decoder: a prefill that applies the stages of a plan between layers, or a step that follows one.

The engine knows no family of models and no knob. A host (``llava.model.hosts``) makes a ``Pass``, asks it before every
layer what the layer is to be given, and reports what went in.

Shapes: B batch, P prompt, S sequence, D width, L decoder layers, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from llava.reduction import Stage
from llava.reduction.evidence.attention import Rope

from .base import Decoder, Inputs, Pass, both, with_config
from .prefill import Entry, Prefill
from .prompt import Prompt
from .state import CACHE, STATE, CacheState, PassRecord, cache_keyword, eager
from .step import Step

__all__ = [
    "CACHE",
    "STATE",
    "CacheState",
    "Decoder",
    "Entry",
    "Inputs",
    "Pass",
    "PassRecord",
    "Prefill",
    "Prompt",
    "Rope",
    "Step",
    "begin",
    "both",
    "cache_keyword",
    "eager",
    "with_config",
]


def begin(
    decoder: Decoder,
    config: Any,
    plan: Callable[[], list[Stage]],
    hidden: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor,
    cache: Cache | None,
    prompt: Prompt,
) -> Pass:
    """The pass that these inputs are: a prefill, or a step that goes on from a cache.

    ``plan`` is called for a prompt with an image only. Raises ValueError for a prompt with an image that arrives in pieces,
    which no in-decoder stage can choose from.
    """
    past = cache.get_seq_length() if cache is not None else 0
    if not past and hidden.shape[1] > 1:
        return Prefill(decoder, config, plan, hidden, attention_mask, position_ids, cache, prompt)
    visual = prompt.visual
    if past and visual is not None and visual.shape[1] > past and visual.any():
        if any(stage.site == "layer" for stage in plan()):
            raise ValueError(
                f"the prompt of {visual.shape[1]} tokens with an image arrives in pieces ({past} are cached already);"
                " reduction needs it whole: do not set prefill_chunk_size, and begin an image with an empty cache"
            )
    return Step(decoder, config, attention_mask, position_ids, cache, past, hidden.shape[1])

"""The Llama configuration with every knob of visual-token reduction."""

# Without `from __future__ import annotations`: `strict` checks the types of fields, but not types given as strings.
from transformers import LlamaConfig as TransformersLlamaConfig

from .reduction_knobs import ReductionKnobs, with_knobs


@with_knobs
class LlamaConfig(ReductionKnobs, TransformersLlamaConfig):
    """A Llama configuration that also says how visual tokens are reduced, by the knobs of ``ReductionKnobs``."""

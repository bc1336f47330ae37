"""Any family of decoders with the engine below it and the documents' knobs above it.

A family becomes reducible by two one-line classes: ``ReducibleFamily`` before its decoder, ``ReducibleFamilyCausalLM``
before its causal language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from llava.model.hosts.decoder import ReducibleCausalLM, ReducibleDecoder, ReducibleOutput
from llava.model.rotary import ExactRotaryEmbedding
from llava.reduction import Stage

from .knobs import plan_from_config, span_override
from .originals import OriginalNames
from .reduction_knobs import ReductionKnobs

# What the mixin is mixed into
_Causal = PreTrainedModel if TYPE_CHECKING else object


class ReducibleFamily(OriginalNames, ReducibleDecoder):
    """A decoder whose visual tokens are reduced by a plan, as ``ReducibleDecoder`` says; knobs of the config spell plans too.

    It answers to the original programs' names as well (``OriginalNames``), whichever method is switched on. The family's
    rotary embedding must be Llama's, as that of Mistral, Qwen2 and Qwen3 is.
    """

    config: ReductionKnobs

    def __init__(self, config: Any):
        super().__init__(config)
        self.rotary_emb = ExactRotaryEmbedding(config)

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> ReducibleOutput:
        """As ``ReducibleDecoder.forward``. Raises ValueError for more positions than the layers' attention window has."""
        window = attention_window(self.config)
        if window is not None:
            self._check_window(window, input_ids if input_ids is not None else kwargs.get("inputs_embeds"), kwargs)
        return super().forward(input_ids, *args, **kwargs)

    @staticmethod
    def _check_window(window: int, given: Tensor | None, keywords: dict[str, Any]) -> None:
        cache = keywords.get("cache") or keywords.get("past_key_values")
        length = (0 if given is None else given.shape[1]) + (0 if cache is None else cache.get_seq_length())
        if length > window:
            raise ValueError(
                f"sliding_window={window} of the model is shorter than its {length} positions; only full attention is"
                f" computed here, which is the same up to {window}: ask for less, or reduce the picture before the decoder"
            )

    def stages(self) -> list[Stage]:
        """The stages that the configuration asks for, read again each time."""
        return plan_from_config(self.config)

    def image_map(self, visual: Tensor | None, valid: Tensor) -> tuple[Tensor | None, tuple[str, ...]]:
        """The image map, from the span in the config where the prompt says nothing, and remarks about it."""
        return span_override(self.config, visual, valid)


class ReducibleFamilyCausalLM(ReducibleCausalLM, _Causal):
    """A language-model head over ``model_class``; labels follow the ledger through any reduction."""

    model_class: type[Any]

    def __init__(self, config: Any):
        # Not the family's own, which would build a decoder that is thrown away at once.
        PreTrainedModel.__init__(self, config)
        self.model = self.model_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def attention_window(config: Any) -> int | None:
    """How many positions back the layers of a config look; None for all of them."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return getattr(config, "sliding_window", None)

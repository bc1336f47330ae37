"""Llama with the engine below it and the documents' knobs above it."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import LlamaForCausalLM, LlamaModel

from llava.model.hosts.decoder import ReducibleCausalLM, ReducibleDecoder, ReducibleOutput
from llava.model.rotary import ExactRotaryEmbedding
from llava.reduction import Stage

from .himap_configuration_llama import LlamaConfig
from .knobs import plan_from_config, span_override
from .originals import OriginalNames

__all__ = ["ReducibleLlamaForCausalLM", "ReducibleLlamaModel", "ReducibleOutput"]


class ReducibleLlamaModel(OriginalNames, ReducibleDecoder, LlamaModel):
    """Llama whose visual tokens are reduced by a plan, as ``ReducibleDecoder`` says; knobs of the config spell plans too.

    It answers to the original programs' names as well (``OriginalNames``), whichever method is switched on.
    """

    config_class = LlamaConfig
    config: LlamaConfig

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.rotary_emb = ExactRotaryEmbedding(config)

    def stages(self) -> list[Stage]:
        """The stages that the configuration asks for, read again each time."""
        return plan_from_config(self.config)

    def image_map(self, visual: Tensor | None, valid: Tensor) -> tuple[Tensor | None, tuple[str, ...]]:
        """The image map, from the span in the config where the prompt says nothing, and what is to be said about it."""
        return span_override(self.config, visual, valid)


class ReducibleLlamaForCausalLM(ReducibleCausalLM, LlamaForCausalLM):
    """Llama with a language-model head over ``model_class``; labels follow the ledger through any reduction."""

    config_class = LlamaConfig
    model_class: type[ReducibleLlamaModel] = ReducibleLlamaModel

    def __init__(self, config: LlamaConfig):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = self.model_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

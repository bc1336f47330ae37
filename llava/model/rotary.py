"""Rotary position embeddings whose frequencies stay exact whatever type a model is cast to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


class ExactRotaryEmbedding(LlamaRotaryEmbedding):
    """Llama's, except that `.half()` and `.to(torch.bfloat16)` move its frequencies without rounding them.

    Rounded to bfloat16 they turn late positions by whole radians; a model that is loaded in half precision keeps them in
    float32 as well.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactRotaryEmbedding:
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, before in exact.items():
            after: Any = self._buffers.get(name)
            if after is not None and before is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self

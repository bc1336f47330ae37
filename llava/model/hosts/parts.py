"""The parts of a stock model that the engine uses, found and checked.

Shapes: none.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

from torch import nn

from .families import Host
from .seen import attention_blocks

_NEEDED = {"hidden_states", "attention_mask", "position_embeddings"}


def base_of(model: Any) -> Any:
    """The model under an adapter of PEFT's; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class Parts:
    """A stock model: ``model`` the whole, ``core`` what is given pixels (None for a decoder alone), ``text`` the decoder."""

    def __init__(self, model: Any, core: Any, text: Any, host: Host | None):
        self.model, self.core, self.text, self.host = model, core, text, host
        self.config = text.config

    @classmethod
    def of(cls, model: Any, host: Host | None) -> Parts:
        """The parts of a model. Raises ValueError where one is missing, naming it."""
        if host is None:
            text = model if hasattr(model, "layers") else getattr(model, "model", None)
            parts = cls(model, None, text, None) if text is not None else None
            if parts is None:
                raise ValueError(
                    f"{type(model).__name__} has no decoder layers; give a language model, or its host=Host(...)"
                )
        else:
            core = model if hasattr(model, host.language_model) else getattr(model, host.core, None)
            text = getattr(core, host.language_model, None)
            if core is None or text is None:
                raise ValueError(
                    f"{type(model).__name__} has no {host.core}.{host.language_model}; set core= and language_model= of its Host"
                )
            parts = cls(model, core, text, host)
        parts._check()
        return parts

    def _check(self) -> None:
        name = type(self.text).__name__
        missing = [part for part in ("layers", "rotary_emb", "norm") if not hasattr(self.text, part)]
        if missing:
            raise ValueError(f"{name} cannot be reduced: it has no {', '.join(missing)}, as Llama's decoder has")
        for number, layer in enumerate(self.text.layers):
            named = set(inspect.signature(layer.forward).parameters)
            if not hasattr(layer, "self_attn") or not _NEEDED <= named:
                raise ValueError(
                    f"{name} cannot be reduced: layer {number} ({type(layer).__name__}) is no attention layer of Llama's kind"
                    " (a linear layer keeps a state instead of keys, which cannot forget a token)"
                )
        if self.host is not None and self.host.token(self.core.config, "image") is None:
            raise ValueError(
                f"the config of {type(self.model).__name__} names no placeholder of an image"
                f" ({self.host.image_token}); set image_token= of its Host"
            )

    @property
    def counts_positions(self) -> bool:
        """Whether positions are one count, by which all layers rotate alike, so that rows can be renumbered."""
        return not self.several_axes and "layer_type" not in inspect.signature(self.text.rotary_emb.forward).parameters

    @cached_property
    def tower(self) -> Any:
        """The vision tower; None where the host names none."""
        return getattr(self.core, self.host.tower, None) if self.host and self.host.tower else None

    @cached_property
    def projector(self) -> Any:
        """The module that makes a token of each feature; None where several make one."""
        return getattr(self.core, self.host.projector, None) if self.host and self.host.projector else None

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The attention of every layer of the tower."""
        return [] if self.tower is None else attention_blocks(self.tower)

    @cached_property
    def has_class(self) -> bool:
        """Whether the tower has a class token."""
        if self.tower is None:
            return False
        return any(
            name.rpartition(".")[2] in ("class_embedding", "cls_token") for name, _ in self.tower.named_parameters()
        )

    @cached_property
    def made(self) -> int:
        """The layer of the tower that makes the features."""
        layer, layers = getattr(self.core.config, "vision_feature_layer", None), len(self.blocks)
        layer = layer[-1] if isinstance(layer, list) else layer
        if layer is None:
            return layers - 1
        return layers + layer if layer < 0 else layer - 1

    @property
    def several_axes(self) -> bool:
        """Whether positions have a time, a height and a width."""
        return self.host is not None and self.host.several_axes

    @property
    def checkpoints(self) -> bool:
        """Whether layers are run again in the backward pass."""
        return bool(self.text.training and getattr(self.text.layers[0], "gradient_checkpointing", False))

"""The families of vision towers: what is different about CLIP, SigLIP and DINOv2, in one place.

Shapes: G images, P patches, F rows in front of them (class token, registers), D the tower's width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava.model.checkpoint import TensorHeader

Projection = Literal["q", "k", "v"]


@dataclass(frozen=True)
class Parts:
    """A layer of a tower, taken apart: what runs between its input and its output.

    hidden + after_attention(out(attention(q, k, v of norm1(hidden)))), and to that + after_mlp(mlp(norm2(...))).
    """

    norm1: nn.Module
    q: nn.Module
    k: nn.Module
    v: nn.Module
    out: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    after_attention: Callable[[Tensor], Tensor] = lambda states: states
    after_mlp: Callable[[Tensor], Tensor] = lambda states: states


@dataclass(frozen=True)
class TowerFamily:
    """What is known of a family of towers.

    kinds: model_types of its vision configs, and the classes for each. whole: model_type of a config that holds such a
    config under ``vision_config``. registers: the field that counts rows between class token and patches. layers: where
    a model has its layers. last_norm: the norm after them. reads_any_size: the picture's size is that of the image
    processor, and positions are interpolated; else it is the config's. is_cut: only the layers up to the selected
    hidden state are kept, as LLaVA-NeXT keeps them and saves them. mean, std: of pictures whose folder does not say how
    they are prepared. crops: whether they are then cut to a square, or squeezed into one.
    """

    name: str
    kinds: dict[str, tuple[type, type]]
    whole: str | None
    has_class_token: bool
    layers: tuple[str, str]
    last_norm: str
    embed: Callable[[Any, Tensor, bool], Tensor]
    run: Callable[[Any, Tensor], Tensor]
    parts: Callable[[Any], Parts]
    mlp_weights: Callable[[Any], int]
    registers: str | None = None
    reads_any_size: bool = False
    is_cut: bool = False
    crops: bool = True
    look: tuple[list[float], list[float]] | None = None

    def front(self, config: Any) -> int:
        """F, the rows in front of the patches."""
        return self.has_class_token + (getattr(config, self.registers, 0) if self.registers else 0)

    def own_layers(self, model: Any) -> nn.ModuleList:
        """The layers of a model."""
        return getattr(getattr(model, self.layers[0]), self.layers[1])

    @property
    def layer_prefix(self) -> str:
        """What the names of a layer's tensors begin with, before its number."""
        return f"{'.'.join(self.layers)}."

    def is_above(self, name: str, layers: int) -> bool:
        """Whether a tensor of a model lies above its first ``layers`` layers, where ``cut`` takes it away."""
        number = name.removeprefix(self.layer_prefix).partition(".")[0]
        return name.startswith("head.") or name.startswith(self.layer_prefix) and int(number) >= layers

    def cut(self, model: Any, layers: int) -> None:
        """Takes away what lies above the first ``layers`` layers; the norm after them stays, as in checkpoints."""
        del self.own_layers(model)[layers:]
        if hasattr(model, "head"):
            model.head = nn.Identity()
            model.use_head = False


def _embed_clip(model: Any, pixels: Tensor, resized: bool) -> Tensor:
    return model.pre_layrnorm(model.embeddings(pixels, interpolate_pos_encoding=resized))


def _embed_siglip(model: Any, pixels: Tensor, resized: bool) -> Tensor:
    return model.embeddings(pixels, interpolate_pos_encoding=resized)


def _embed_dinov2(model: Any, pixels: Tensor, resized: bool) -> Tensor:
    return model.embeddings(pixels)


def _with_mask(layer: Any, hidden: Tensor) -> Tensor:
    return _alone(layer(hidden, None))


def _without_mask(layer: Any, hidden: Tensor) -> Tensor:
    return _alone(layer(hidden))


def _alone(output: Any) -> Tensor:
    """Older layers return a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _clip_parts(layer: Any) -> Parts:
    attention = layer.self_attn
    projections = attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj
    return Parts(layer.layer_norm1, *projections, layer.layer_norm2, layer.mlp)


def _dinov2_parts(layer: Any) -> Parts:
    attention = layer.attention
    if hasattr(attention, "attention"):  # as transformers 5.17 names its modules
        inner = attention.attention
        projections = inner.query, inner.key, inner.value, attention.output.dense
    else:
        projections = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    return Parts(layer.norm1, *projections, layer.norm2, layer.mlp, layer.layer_scale1, layer.layer_scale2)


def _mlp_weights(config: Any) -> int:
    return 2 * config.hidden_size * config.intermediate_size


def _dinov2_mlp_weights(config: Any) -> int:
    width = config.hidden_size
    inner = int(width * config.mlp_ratio)
    return 3 * width * ((int(inner * 2 / 3) + 7) // 8 * 8) if config.use_swiglu_ffn else 2 * width * inner


CLIP = TowerFamily(
    name="CLIP",
    kinds={"clip_vision_model": (CLIPVisionConfig, CLIPVisionModel)},
    whole="clip",
    has_class_token=True,
    layers=("encoder", "layers"),
    last_norm="post_layernorm",
    embed=_embed_clip,
    run=_with_mask,
    parts=_clip_parts,
    mlp_weights=_mlp_weights,
)
SIGLIP = TowerFamily(
    name="SigLIP",
    kinds={"siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel)},
    whole="siglip",
    has_class_token=False,
    layers=("encoder", "layers"),
    last_norm="post_layernorm",
    embed=_embed_siglip,
    run=_with_mask,
    parts=_clip_parts,
    mlp_weights=_mlp_weights,
    is_cut=True,
    crops=False,
    look=([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
)
DINOV2 = TowerFamily(
    name="DINOv2",
    kinds={
        "dinov2": (Dinov2Config, Dinov2Model),
        "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
    },
    whole=None,
    has_class_token=True,
    layers=("encoder", "layer"),
    last_norm="layernorm",
    embed=_embed_dinov2,
    run=_without_mask,
    parts=_dinov2_parts,
    mlp_weights=_dinov2_mlp_weights,
    registers="num_register_tokens",
    reads_any_size=True,
    look=([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
)
TOWERS = (CLIP, SIGLIP, DINOV2)
SUPPORTED = "; ".join(f"{family.name} ({', '.join(family.kinds)})" for family in TOWERS)


def tower_family(kind: object) -> TowerFamily | None:
    """The family of a vision config's model_type; None for another."""
    return next((family for family in TOWERS if kind in family.kinds), None)


# What transformers calls a module now, and what checkpoints call it
_STORED = (
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.gate_proj.", ".mlp.weights_in."),
    (".mlp.up_proj.", ".mlp.weights_in."),
    (".mlp.down_proj.", ".mlp.weights_out."),
)


def as_stored(tensors: dict[str, TensorHeader]) -> dict[str, TensorHeader]:
    """Tensors of a tower under the names that checkpoints have for them, whichever version of transformers named them.

    Two matrices that a checkpoint holds stacked as one are one here too.
    """
    stored: dict[str, TensorHeader] = {}
    for name, header in tensors.items():
        name = name.removeprefix("vision_model.")
        for now, then in _STORED:
            name = name.replace(now, then)
        if name in stored:
            rows = header.shape[0] + stored[name].shape[0]
            header = header._replace(shape=(rows, *header.shape[1:]))
        stored[name] = header
    return stored

"""A checkpoint's config.json as the config of its family, in either layout; errors name field and file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from llava.conversation import get_conversation
from llava.files import excerpt
from llava.mm_utils import ANYRES
from llava.model.checkpoint import errors_naming, read_json
from llava.model.language_model.llava_family import OWN_LAYOUT, LlavaFamilyConfig
from llava.model.language_model.reducible_family import attention_window
from llava.model.language_model.reduction_knobs import REDUCTION_KNOBS
from llava.model.loading.families import SUPPORTED, Family, family_of
from llava.model.multimodal_encoder.scales import stated_scales
from llava.model.vision.anyres import most_crops

HF_MODEL_TYPES = ("llava", "llava_next")

# How many positions the model reads: the first of these that a config has.
CONTEXT_LENGTHS = ("max_sequence_length", "tokenizer_model_max_length", "max_position_embeddings")


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_grid(value: Any) -> TypeGuard[list[list[int]]]:
    return isinstance(value, list) and all(
        isinstance(size, list) and len(size) == 2 and all(map(_is_count, size)) for size in value
    )


Check = tuple[Callable[[Any], bool], str]
COUNT: Check = (_is_count, "a whole number of at least 1")
NUMBER: Check = (lambda value: type(value) is int, "a whole number")
SWITCH: Check = (lambda value: isinstance(value, bool), "true or false")
TEXT: Check = (lambda value: isinstance(value, str) and bool(value), "a text")
OBJECT: Check = (lambda value: isinstance(value, dict), "an object")
GRID: Check = (_is_grid, "a list of [width, height] in pixels")

# What a field must be where it is there; null is as if it were not.
FIELDS: dict[str, Check] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), COUNT),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "vocab_size", *CONTEXT_LENGTHS, "mm_hidden_size"), COUNT),
    **dict.fromkeys(("mm_vision_tower", "mm_projector_type", "mm_patch_merge_type", "image_aspect_ratio"), TEXT),
    **dict.fromkeys(("mm_use_im_start_end", "mm_use_im_patch_token", "tie_word_embeddings", "attention_bias"), SWITCH),
    "s2": SWITCH,
    "s2_scales": TEXT,
    "mm_vision_select_layer": NUMBER,
    "mm_vision_select_feature": TEXT,
    "mm_vision_config": OBJECT,
    "image_grid_pinpoints": GRID,
    "quantization_config": OBJECT,
}


def read_config(folder: Path) -> LlavaFamilyConfig:
    """The config of a checkpoint in LLaVA's or llava-hf's layout, as ours.

    Its `conv_mode` is None where the file does not name the prompt template. Raises FileNotFoundError, or ValueError that
    names file and field, for another model and for values that no model can have.
    """
    path = folder / "config.json"
    raw = read_json(path)
    if "text_config" in raw:
        raw = _flattened(raw, path)
    kind = raw.pop("model_type", None)
    family = family_of(kind)
    if family is None:
        raise ValueError(f"{path}: model_type {excerpt(kind)} is not supported{_why(kind)}; there are {SUPPORTED}")
    raw = {name: value for name, value in raw.items() if name not in OWN_LAYOUT}
    _check_fields(raw, family, path)
    with errors_naming(path, "correct the field, or fetch the file again"):
        config = family.config.from_dict(raw)
        config.architectures = [family.model.__name__]
        config.mm_vision_tower = getattr(config, "mm_vision_tower", None)
        config.conv_mode = getattr(config, "conv_mode", None)
        if config.conv_mode is not None:
            get_conversation(config.conv_mode)
        # This is how LLaVA reads a config that does not mention them.
        config.mm_use_im_start_end = getattr(config, "mm_use_im_start_end", False)
        config.mm_use_im_patch_token = getattr(config, "mm_use_im_patch_token", True)
    _check_relations(config, path)
    return config


def context_length(config: LlavaFamilyConfig) -> int:
    """How many positions, image tokens included, the model reads: no more than its attention window has."""
    length = next(value for name in CONTEXT_LENGTHS if (value := getattr(config, name, None)))
    return min(length, attention_window(config) or length)


def _why(kind: Any) -> str:
    """What a decoder that LLaVA was also published with lacks here."""
    if kind in ("llava_mpt", "mpt"):
        return ": MPT's layers carry no rotary positions (ALiBi stands in their attention), so no token can be dropped there"
    return ""


def _check_fields(raw: dict[str, Any], family: Family, path: Path) -> None:
    """Refuses values of the wrong type, and names that would hide a method of the config."""
    for name, value in raw.items():
        if callable(getattr(family.config, name, None)):
            raise ValueError(f"{path}: {name!r} is no field of a config; take it out")
        check = FIELDS.get(name)
        if check and value is not None and not check[0](value):
            raise ValueError(f"{path}: {name}={excerpt(value)} must be {check[1]}")


def _check_relations(config: LlavaFamilyConfig, path: Path) -> None:
    """Refuses fields that contradict each other."""
    heads = config.num_attention_heads
    groups = config.num_key_value_heads or heads  # None is one of each head, as transformers reads it
    if heads % groups:
        raise ValueError(f"{path}: num_attention_heads={heads} must be a multiple of num_key_value_heads={groups}")
    if config.mm_vision_tower is None:
        return
    if getattr(config, "mm_resampler_type", None):
        raise ValueError(
            f"{path}: mm_resampler_type={excerpt(config.mm_resampler_type)} is not supported; only models without one are"
        )
    layout = getattr(config, "image_aspect_ratio", None)
    if layout not in (None, "square", "pad", ANYRES) and most_crops(layout) is None:
        raise ValueError(
            f"{path}: image_aspect_ratio={excerpt(layout)} is not supported; there are 'square', 'pad', 'anyres' and"
            " 'anyres_max_9' with any number"
        )
    with errors_naming(path):
        scales = stated_scales(config)
    if scales and (layout or "").startswith(ANYRES):
        grids = getattr(config, "image_grid_pinpoints", None) or []
        if any(side % scales[-1] for size in grids for side in size):
            raise ValueError(
                f"{path}: image_grid_pinpoints={excerpt(grids)} must be multiples of {scales[-1]}, the largest of the tower's"
                " scales, for that is the size of a crop"
            )
    for name in ("mm_hidden_size", "mm_vision_select_layer"):
        if getattr(config, name, None) is None:
            raise ValueError(f"{path}: {name} is missing, but there is a vision tower, {config.mm_vision_tower!r}")


def _flattened(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """llava-hf's nested config as LLaVA's flat one; the tower's config is kept, for its weights are inside."""
    kind, text, vision = raw.get("model_type"), raw["text_config"], raw.get("vision_config", {})
    if kind not in HF_MODEL_TYPES:
        raise ValueError(f"{path}: model_type {excerpt(kind)} is not supported; there are {', '.join(HF_MODEL_TYPES)}")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise ValueError(f"{path}: text_config and vision_config must be objects; fetch the file again")
    flat = {
        "model_type": "llama",
        **text,
        **{name: raw[name] for name in REDUCTION_KNOBS if name in raw},
        "conv_mode": raw.get("conv_mode"),
        "mm_vision_tower": ".",
        "mm_vision_config": {"model_type": "clip_vision_model", **vision},
        "mm_hidden_size": vision.get("hidden_size", 1024),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": raw.get("vision_feature_layer", -2),
        "mm_vision_select_feature": "cls_patch" if raw.get("vision_feature_select_strategy") == "full" else "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_patch_merge_type": "flat",
        # The processor of these folders crops; the weights were trained on padded pictures.
        "image_aspect_ratio": raw.get("image_aspect_ratio", "pad"),
        "tie_word_embeddings": text.get("tie_word_embeddings", raw.get("tie_word_embeddings", False)),
    }
    if kind == "llava_next":
        grids = raw.get("image_grid_pinpoints")
        if not _is_grid(grids):
            raise ValueError(f"{path}: image_grid_pinpoints={excerpt(grids)} must be a list of [height, width]")
        flat |= {
            "image_aspect_ratio": "anyres",
            "mm_patch_merge_type": "spatial_unpad",
            # There (height, width).
            "image_grid_pinpoints": [[width, height] for height, width in grids],
        }
    return flat

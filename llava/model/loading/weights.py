"""The weights of a whole model: compared with what its config describes before any is read, then read by transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from llava.files import excerpt
from llava.model.checkpoint import (
    TensorHeader,
    check_depth,
    check_tensors,
    errors_naming,
    find_folder,
    headers_of,
    listed,
    no_loading_report,
    read_json,
    weight_headers,
)
from llava.model.language_model.llava_family import LlavaFamilyConfig, LlavaFamilyForCausalLM
from llava.model.loading.families import model_class
from llava.model.loading.layout import HF_LAYOUT, TOWER, is_hf, is_recomputed, own_name
from llava.model.multimodal_encoder.families import as_stored
from llava.model.multimodal_encoder.opening import family_of, load_vision_config, vision_config

PROJECTOR_FILE = "mm_projector.bin"

# What may be absent from a language model that gets its projector from elsewhere.
PROJECTION = ("model.mm_projector.", "model.image_newline")

# Modules that are the identity until they are trained.
UNTRAINED = ("model.condensation.",)


def load_whole(
    folder: Path, config: LlavaFamilyConfig, options: dict[str, Any], optional: tuple[str, ...] = ()
) -> LlavaFamilyForCausalLM:
    """A model with all weights of one folder, in either layout.

    options: keywords of transformers' `from_pretrained`. optional: prefixes of names that may be missing. Raises
    FileNotFoundError, or ValueError that names missing, unexpected and mismatched tensors before any is read.
    """
    headers = weight_headers(folder)
    _check_generation_config(folder / "generation_config.json")
    _describe_tower(folder, headers, config)
    # Packed weights have shapes of their own.
    if getattr(config, "quantization_config", None) is None:
        _check_fit(folder, headers, config, optional)
    with no_loading_report():
        loaded: Any = model_class(config).from_pretrained(
            folder,
            config=config,
            key_mapping=HF_LAYOUT if is_hf(headers) else None,
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    # transformers would reverse the renaming when it saves, which these patterns do not allow.
    model._weight_conversions = None
    missing = [name for name in info["missing_keys"] if not name.startswith((*optional, *UNTRAINED))]
    unexpected = [name for name in info["unexpected_keys"] if not is_unread(name, config)]
    if missing or unexpected:
        raise ValueError(
            f"{folder} does not fit the model its config describes: missing {listed(missing)}; "
            f"not understood {listed(unexpected)}"
        )
    return model


def _check_generation_config(file: Path) -> None:
    """Raises ValueError naming the file where transformers cannot generate by it."""
    if not file.is_file():
        return
    raw = read_json(file)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = raw.get(name)
        tokens = value if isinstance(value, list) and value else [value]
        if value is not None and not all(type(token) is int for token in tokens):
            raise ValueError(f"{file}: {name}={excerpt(value)} must be the number of a token, or a list of such")
    with errors_naming(file):
        GenerationConfig.from_pretrained(file.parent)


def _describe_tower(folder: Path, headers: dict[str, TensorHeader], config: LlavaFamilyConfig) -> None:
    """Has the tower built with the model if, and only if, the checkpoint carries its weights."""
    carried = any(name.startswith(("vision_tower.", "model.vision_tower.")) for name in headers)
    if not carried:
        config.mm_vision_config = None
    elif not getattr(config, "mm_vision_config", None):
        if config.mm_vision_tower is None:
            raise ValueError(f"{folder} carries a vision tower's weights, but its config names no mm_vision_tower")
        place = find_folder(config.mm_vision_tower, "vision tower (its config)", (folder,), weights=False)
        config.mm_vision_config = load_vision_config(place).to_dict()


def _check_fit(
    folder: Path, headers: dict[str, TensorHeader], config: LlavaFamilyConfig, optional: tuple[str, ...]
) -> None:
    """Compares the tensors of a folder with those of the model that its config describes; see `check_tensors`."""
    held = _stored({own_name(name) if is_hf(headers) else name: header for name, header in headers.items()})
    held = {name: header for name, header in held.items() if not is_recomputed(name) and not is_unread(name, config)}
    check_depth(folder, held, "model.layers.", config.num_hidden_layers, "num_hidden_layers")
    if config.mm_vision_config:
        vision = vision_config(config.mm_vision_config, folder / "config.json")
        family, depth = family_of(vision), vision.num_hidden_layers
        depth = config.mm_vision_select_layer % (depth + 1) if family.is_cut else depth
        check_depth(folder, held, TOWER + family.layer_prefix, depth, "num_hidden_layers of the tower")
    wanted = model_shapes(config, folder)
    tied = ("lm_head.weight",) if config.tie_word_embeddings else ()
    check_tensors(folder, held, wanted, optional=(*optional, *UNTRAINED, *tied))


def is_unread(name: str, config: LlavaFamilyConfig) -> bool:
    """Whether a tensor of a tower lies above all that is read of it, and is not kept."""
    if not config.mm_vision_config or not name.startswith(TOWER):
        return False
    vision = vision_config(config.mm_vision_config, "mm_vision_config")
    layers = config.mm_vision_select_layer % (vision.num_hidden_layers + 1)
    return family_of(vision).is_cut and family_of(vision).is_above(own_name(name).removeprefix(TOWER), layers)


def _stored(headers: dict[str, TensorHeader]) -> dict[str, TensorHeader]:
    """Tensors by names in LLaVA's layout, those of the tower as checkpoints hold them, whichever version saved it."""
    tower = {name.removeprefix(TOWER): header for name, header in headers.items() if name.startswith(TOWER)}
    rest = {name: header for name, header in headers.items() if not name.startswith(TOWER)}
    return rest | {TOWER + name: header for name, header in as_stored(tower).items()}


def model_shapes(config: LlavaFamilyConfig, source: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's tensors, from a model without memory; names as checkpoints have them.

    Raises ValueError naming `source` for a config that no model can be built from.
    """
    with errors_naming(source / "config.json", "correct the config, or fetch it again"), torch.device("meta"):
        model = model_class(config)(copy.deepcopy(config))
    return {name: header.shape for name, header in _stored(headers_of(model.state_dict())).items()}


def load_tower(model: LlavaFamilyForCausalLM, inside: tuple[Path, ...], hub: dict[str, Any]) -> None:
    """Reads a tower that the checkpoint does not carry, onto the language model's device and in its type."""
    tower = model.get_vision_tower()
    if tower is None:
        return
    like = model.get_model().embed_tokens.weight
    if like.is_meta:
        raise ValueError("device_map offloads model.embed_tokens; images are spliced beside it, so keep it on a device")
    tower.load_model(inside=inside, dtype=like.dtype, device=like.device, **hub)


def check_finite(model: nn.Module, source: Path) -> None:
    """Raises ValueError naming the weights that hold a NaN or an infinity; offloaded and packed ones are passed over."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    bad = [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.sum(dtype=torch.float32).isfinite()
    ]
    if bad:
        raise ValueError(f"{source} holds numbers that are not finite in {listed(bad)}; fetch it again")

"""A vision tower's folder before anything is loaded: its config, its family, and whether its weights fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llava.files import excerpt
from llava.model.checkpoint import (
    check_depth,
    check_tensors,
    errors_naming,
    find_folder,
    headers_of,
    read_json,
    weight_headers,
)
from llava.model.multimodal_encoder.families import SUPPORTED, TOWERS, TowerFamily, as_stored, tower_family
from llava.model.multimodal_encoder.scales import check_scales, stated_scales

# Parts of a whole CLIP or SigLIP that are not its vision tower.
_NOT_VISION = ("text_model.", "text_projection.", "visual_projection.", "logit_")


def open_tower(name: str, inside: tuple[Path, ...], select_layer: int, **hub: Any) -> tuple[Path, Any]:
    """The folder of a tower and its config, once its weights are known to fit; none is read.

    select_layer: the hidden state that is wanted, which it must have. Others and errors as in `VisionTower.load_model`.
    """
    folder = find_folder(name, "vision tower", inside, **hub)
    config = load_vision_config(folder)
    check_select_layer(select_layer, config)
    family = family_of(config)
    # Whole CLIPs hold a text tower too; older ones name the vision part, and save buffers that are computed now.
    held = as_stored(
        {
            name: header
            for name, header in weight_headers(folder).items()
            if not name.startswith(_NOT_VISION) and not name.endswith("position_ids")
        }
    )
    depth = select_layer % (config.num_hidden_layers + 1) if family.is_cut else config.num_hidden_layers
    with errors_naming(folder / "config.json"):
        check_depth(folder, held, family.layer_prefix, depth, "num_hidden_layers")
        with torch.device("meta"):
            model = family.kinds[config.model_type][1](config)
        if family.is_cut:
            family.cut(model, depth)
    wanted = {name: header.shape for name, header in as_stored(headers_of(model.state_dict())).items()}
    # A mask is learned only to be trained with; nothing is masked here.
    optional = ("embeddings.mask_token",)
    check_tensors(folder, {name: header for name, header in held.items() if name in wanted}, wanted, optional)
    return folder, config


def check_tower(config: Any, inside: tuple[Path, ...], **hub: Any) -> None:
    """Raises what loading the tower of a config would, before any weight is read, and ValueError for another width.

    config: `mm_vision_tower`, `mm_vision_select_layer`, `mm_hidden_size`, and as `stated_scales` reads it. Others as in
    `VisionTower.load_model`.
    """
    _, tower = open_tower(config.mm_vision_tower, inside, config.mm_vision_select_layer, **hub)
    scales = stated_scales(config)
    check_scales(scales, tower)
    width = tower.hidden_size * max(len(scales), 1)
    if config.mm_hidden_size != width:
        at = f" at the scales {','.join(map(str, scales))}" if scales else ""
        raise ValueError(
            f"mm_hidden_size={config.mm_hidden_size}, but the features of vision tower {config.mm_vision_tower!r}{at} are "
            f"{width} wide; was the model trained with another tower?"
        )


def check_select_layer(layer: int, config: Any) -> None:
    """Raises ValueError unless the tower has this hidden state: 0 is its embeddings, -1 what the last layer gives."""
    depth = config.num_hidden_layers
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"mm_vision_select_layer={layer}, but the vision tower has {depth} layers; give -{depth + 1} to {depth}"
        )


def load_vision_config(folder: Path) -> Any:
    """The config of the vision tower in a folder, also of a whole CLIP or SigLIP. Raises ValueError for another model."""
    path = folder / "config.json"
    raw = read_json(path)
    vision = raw.get("vision_config", raw)
    if isinstance(vision, dict) and vision is not raw:
        # The vision part of a whole model's config does not always say what it is.
        kind = next((next(iter(family.kinds)) for family in TOWERS if family.whole == raw.get("model_type")), None)
        vision = {**({} if kind is None else {"model_type": kind}), **vision}
    return vision_config(vision, path)


def family_of(config: Any) -> TowerFamily:
    """The family of a tower's config, which ``vision_config`` has read."""
    family = tower_family(config.model_type)
    if family is None:
        raise ValueError(
            f"model_type {excerpt(config.model_type)} is no vision tower that is known; there are {SUPPORTED}"
        )
    return family


def vision_config(raw: Any, source: str | Path) -> Any:
    """A tower's config from its fields. Raises ValueError naming `source` for fields that no tower of its family has."""
    kind = raw.get("model_type", "clip_vision_model") if isinstance(raw, dict) else type(raw).__name__
    family = tower_family(kind)
    if family is None:
        raise ValueError(
            f"{source}: model_type {excerpt(kind)} is no vision tower that is known; there are {SUPPORTED}"
        )
    with errors_naming(source):
        config = family.kinds[kind][0].from_dict({key: value for key, value in raw.items() if key != "model_type"})
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    ):
        value = getattr(config, name, 1)  # a family may specify its feed-forward differently
        if type(value) is not int or value < 1:
            raise ValueError(
                f"{source}: {name}={excerpt(value)} of the vision tower must be a whole number of at least 1"
            )
    return config

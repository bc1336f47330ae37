"""From the configuration's documented knobs to stages, and to the image span where one is given by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from llava.reduction import Stage, make_stage, plan_from, spelled_out
from llava.reduction.checks import check_whole, is_number, is_whole, shown

from .reduction_knobs import ReductionKnobs, active_flags, check_values

logger = logging.getLogger(__name__)


class Knob:
    """An attribute that is a knob of the config: read and written there, so that the two can never disagree."""

    def __init__(self, name: str = ""):
        self.name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.name = self.name or attribute

    def __get__(self, model: nn.Module | None, owner: type | None = None) -> Any:
        return self if model is None else getattr(model.config, self.name)

    def __set__(self, model: nn.Module, value: Any) -> None:
        setattr(model.config, self.name, value)


SPANS = {
    "use_fast_v": ("fast_v_sys_length", "fast_v_image_token_length"),
    "use_hmap_v": ("hmap_v_sys_length", "hmap_v_img_length"),
    "use_token_condensation": ("hmap_v_sys_length", "hmap_v_img_length"),
    "use_custom_selection": ("custom_sys_length", "custom_image_token_length"),
}


def plan_from_config(config: ReductionKnobs, attentions: Iterable[nn.Module] = ()) -> list[Stage]:
    """The plan that the knobs spell; ``reduction`` and a ``use_*`` flag at once raise.

    ``attentions`` are the trained modules of the condensation stages, in their order; without them they are untrained.
    """
    config.check_reduction()
    flags = active_flags(config)
    if config.reduction and flags:
        raise ValueError(f"reduction={shown(config.reduction)} and {flags[0]}=True are both set; use one of them")
    if not flags:
        return plan_from(config.reduction)
    if flags == ["use_fast_v"]:
        return [fastv_stage(config, config.fast_v_token_selection_method, config.fast_v_weighted_alpha)]
    if flags == ["use_custom_selection"]:
        return custom_selection_stages(config)
    if flags == ["use_hmap_v"]:
        return himap_stages(config)
    return condensation_stages(config, attentions)


def fastv_stage(config: ReductionKnobs, method: str, alpha: float | str) -> Stage:
    """FastV's stage from the ``fast_v_*`` knobs; its method may also be "text_weighted"."""
    placement = config.fast_v_placement
    if config.fast_v_inplace is not None:
        placement = "drop" if config.fast_v_inplace else "mask"
    options = {
        "layer": ("fast_v_agg_layer", config.fast_v_agg_layer),
        "keep": ("fast_v_attention_rank", config.fast_v_attention_rank),
        "place": ("fast_v_placement", placement),
    }
    if method == "text_weighted":
        return _stage("text_weighted", **options, text=("fast_v_text", config.fast_v_text))
    return _stage(
        "fastv",
        **options,
        heads=("fast_v_token_selection_method", method),
        alpha=("fast_v_weighted_alpha", alpha),
        diversity=("fast_v_diversity", config.fast_v_diversity),
    )


def himap_stages(config: ReductionKnobs) -> list[Stage]:
    """HiMAP's stages from the ``hmap_v_*`` knobs and ``cut_off_layer``, in the order of their layers.

    A stage whose layer and rank are both None is left out. At and after the cut-off nothing is left to select, so stages
    there are left out too. Raises ValueError for a layer without its rank, two stages at one layer, and ranks that grow
    with depth.
    """
    normalised = ("hmap_v_row_normalised", config.hmap_v_row_normalised)
    rows = {"txt": {}, "img": {"rows": ("rows", "image"), "row_normalised": normalised}}
    stages = [
        _stage(
            "himap",
            layer=(f"hmap_v_attn_{which}_layer", layer),
            keep=(f"hmap_v_attn_{which}_rank", rank),
            **rows[which],
        )
        for which, layer, rank in _himap_levels(config)
    ]
    plan = _with_cut_off(config, stages)
    if not plan:
        raise ValueError(
            "use_hmap_v=True but no stage is set; give hmap_v_attn_txt_layer and hmap_v_attn_txt_rank,"
            " hmap_v_attn_img_layer and hmap_v_attn_img_rank, or cut_off_layer"
        )
    return plan


def condensation_stages(config: ReductionKnobs, attentions: Iterable[nn.Module] = ()) -> list[Stage]:
    """Condensation's stages: at ``condensation_layers`` with ``condensation_ranks``, else at HiMAP's layers and ranks."""
    names, layers, ranks = condensation_levels(config)
    if not layers:
        raise ValueError(
            "use_token_condensation=True but no layer is given; set hmap_v_attn_txt_layer and hmap_v_attn_txt_rank"
            " (and hmap_v_attn_img_*), or condensation_layers and condensation_ranks"
        )
    count = len(layers)
    _check_levels(names[0], layers, names[1], ranks)
    check_whole("condensation_num_heads", config.condensation_num_heads, 1)
    if config.hidden_size % config.condensation_num_heads:
        raise ValueError(
            f"condensation_num_heads={config.condensation_num_heads} must divide the width hidden_size={config.hidden_size}"
        )
    strategies = _each("condensation_strategy", config.condensation_strategy, count)
    modules = list(attentions) or [None] * count
    if len(modules) != count:
        raise ValueError(
            f"the knobs ask for {count} condensation stages but the model was built with {len(modules)} modules;"
            " build it again with this config, and train or load the new ones"
        )
    stages = [
        _stage(
            "condensation",
            layer=(names[0], layer),
            keep=(names[1], rank),
            strategy=("condensation_strategy", strategy),
            heads=("condensation_num_heads", config.condensation_num_heads),
            cover=("condensation_cover", config.condensation_cover),
            attention=("attention", module),
        )
        for layer, rank, strategy, module in zip(layers, ranks, strategies, modules)
    ]
    return _with_cut_off(config, stages)


def condensation_levels(config: ReductionKnobs) -> tuple[tuple[str, str], list[int], list[int | float]]:
    """The knobs that say where condensation happens, and what they say: names, layers, ranks (both empty: nothing)."""
    layers, ranks = config.condensation_layers, config.condensation_ranks
    names = "condensation_layers", "condensation_ranks"
    if (layers is None) != (ranks is None):
        raise ValueError(f"{names[0]}={layers!r} and {names[1]}={ranks!r} belong together; give both, or neither")
    if layers is not None:
        return names, layers, _each(names[1], ranks, len(layers))
    levels = _himap_levels(config)
    return ("hmap_v_attn_*_layer", "hmap_v_attn_*_rank"), [level[1] for level in levels], [level[2] for level in levels]


def condensation_stage_count(config: ReductionKnobs) -> int:
    """At how many layers condensation happens, whether or not their ranks are given yet."""
    check_values(config)
    if config.condensation_layers is not None:
        return len(config.condensation_layers)
    return sum(layer is not None for layer in (config.hmap_v_attn_txt_layer, config.hmap_v_attn_img_layer))


def custom_selection_stages(config: ReductionKnobs) -> list[Stage]:
    """Custom selection's stages from the ``custom_*`` knobs; lists give one stage per entry."""
    layers = config.custom_agg_layer if isinstance(config.custom_agg_layer, list) else [config.custom_agg_layer]
    if not layers:
        raise ValueError("custom_agg_layer=[] names no layer; give one, or switch off use_custom_selection")
    kept = _each("custom_kept_tokens", config.custom_kept_tokens, len(layers))
    strategies = _each("custom_selection_method", config.custom_selection_method, len(layers))
    if len(layers) > 1 and config.custom_placement == "zero_fill":
        raise ValueError(
            f"custom_agg_layer={shown(layers)} needs custom_placement='drop': after a zero-filled stage the next would choose"
            " among zeros"
        )
    _check_levels("custom_agg_layer", layers, "custom_kept_tokens", kept)
    return [
        _stage(
            "custom_selection",
            layer=("custom_agg_layer", layer),
            keep=("custom_kept_tokens", keep),
            place=("custom_placement", config.custom_placement),
            strategy=("custom_selection_method", strategy),
            temperature=("custom_temperature", config.custom_temperature),
            cover=("custom_cover", config.custom_cover),
            semantic=("custom_semantic", config.custom_semantic),
        )
        for layer, keep, strategy in zip(layers, kept, strategies)
    ]


def _stage(method: str, **options: tuple[str, Any]) -> Stage:
    """A stage from ``option=(knob, value)``; an error says from which knob the value came."""
    try:
        return make_stage(method, **{option: value for option, (_, value) in options.items()})
    except ValueError as error:
        knob, _ = options.get(str(error).partition("=")[0], ("", None))
        raise ValueError(f"{knob}: {error}" if knob else str(error)) from error


def _himap_levels(config: ReductionKnobs) -> list[tuple[str, int, int | float]]:
    """(stage, layer, rank) of the two documented stages that are set, from shallow to deep."""
    levels = []
    for which in ("txt", "img"):
        names = f"hmap_v_attn_{which}_layer", f"hmap_v_attn_{which}_rank"
        layer, rank = (getattr(config, name) for name in names)
        if (layer is None) != (rank is None):
            raise ValueError(f"{names[0]}={layer} and {names[1]}={rank} belong together; give both, or neither")
        if layer is not None:
            levels.append((which, layer, rank))
    levels.sort(key=lambda level: level[1])
    if len(levels) == 2:
        layers, ranks = ([level[part] for level in levels] for part in (1, 2))
        _check_levels("hmap_v_attn_*_layer", layers, "hmap_v_attn_*_rank", ranks)
    return levels


def _with_cut_off(config: ReductionKnobs, stages: list[Stage]) -> list[Stage]:
    """The stages before ``cut_off_layer``, and from there on no image token at all."""
    last = config.cut_off_layer
    if last is None or last == 0 or last >= config.num_hidden_layers:
        return stages
    stages = spelled_out(stages, config.num_hidden_layers)
    return [*(stage for stage in stages if stage.layer is None or stage.layer < last), make_stage("blind", layer=last)]


def _each(name: str, value: Any, count: int) -> list:
    """A knob's value for each of ``count`` stages."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name}={shown(value)} has {len(value)} entries for {count} stages; give one each, or a single value"
        )
    return value


def _check_levels(layer_name: str, layers: list, rank_name: str, ranks: list) -> None:
    """Layers must be whole numbers that go up; ranks must be numbers, and counts must not grow."""
    if unknown := [layer for layer in layers if not is_whole(layer)]:
        raise ValueError(f"{layer_name}: {shown(unknown[0])} must be the whole number of a layer")
    if unknown := [rank for rank in ranks if not is_number(rank)]:
        raise ValueError(f"{rank_name}: {shown(unknown[0])} must be a count or a share of image tokens to keep")
    if any(later <= earlier for earlier, later in zip(layers, layers[1:])):
        raise ValueError(f"{layer_name}={shown(layers)} must go up, one stage a layer")
    counts = [rank for rank in ranks if not isinstance(rank, float)]
    if any(later > earlier for earlier, later in zip(counts, counts[1:])):
        raise ValueError(
            f"{rank_name}={shown(ranks)} at {layer_name}={shown(layers)} must not grow with depth: what is gone stays gone"
        )


# ------------------------------------------------------------------------------------------------------ the image's span


def span_override(
    config: ReductionKnobs, visual: Tensor | None, valid: Tensor
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The prompt's image map (B, P), and what a reader of the trace should know of it.

    ``visual`` is what the prompt says, and takes precedence. Without it the map is made from the span in the config's
    knobs, counted from each row's first position that is no padding (``valid`` (B, S)). A start that the prompt
    contradicts is named in a warning, once, and in the remarks; the original programs name 35 and 36 for one prompt.
    Raises ValueError for an impossible span: a negative start, or a number of image tokens other than the prompt's.
    """
    names = next((SPANS[flag] for flag in active_flags(config)), None)
    if names is None:
        return visual, ()
    start, length = (getattr(config, name) for name in names)
    for name, value, least in ((names[0], start, 0), (names[1], length, 1)):
        if value is not None:
            check_whole(name, value, least)
    if visual is None:
        return _span(start, length, names, valid)
    rows = [(row.bool(), keep) for row, keep in zip(visual, valid) if row.any()]
    counts = [int(row.sum()) for row, _ in rows]
    if length is not None and any(count != length for count in counts):
        other = next(count for count in counts if count != length)
        raise ValueError(
            f"{names[1]}={length} but the prompt says {other}; leave {names[1]} unset to read it from the prompt"
        )
    starts = {int(row.long().argmax() - keep.long().argmax()) for row, keep in rows}
    if start is None or starts <= {start}:
        return visual, ()
    remark = f"{names[0]}={start} but the prompt says {', '.join(map(str, sorted(starts - {start})))}, which is used"
    _warn_once(remark)
    return visual, (remark,)


def _span(
    start: int | None, length: int | None, names: tuple[str, str], valid: Tensor
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The image map of a prompt that says nothing of images, from the two numbers where both are given."""
    if start is None or length is None:
        return None, ()
    if start + length > valid.shape[1]:
        _warn_once(
            f"{names[0]}={start} and {names[1]}={length} do not fit into a prompt of {valid.shape[1]} tokens, which is taken"
            " to hold no image"
        )
        return None, ()
    padding = valid.long().argmax(1, keepdim=True)
    position = torch.arange(valid.shape[1], device=valid.device)[None] - padding
    return ((position >= start) & (position < start + length)).long(), ()


@lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    logger.warning("%s", message)

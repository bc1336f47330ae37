"""From the configuration's documented knobs to stages, and to the image span where one is given by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llava.reduction import Stage, make_stage, plan_from
from llava.reduction.aggregate import CrossAttention

from .himap_configuration_llama import LlamaConfig, active_flags, check_knobs


class Knob:
    """An attribute that is a knob of the config: read and written there, so that the two can never disagree."""

    def __init__(self, name: str | None = None):
        self.name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.name = self.name or attribute

    def __get__(self, model, owner: type | None = None):
        return self if model is None else getattr(model.config, self.name)

    def __set__(self, model, value) -> None:
        setattr(model.config, self.name, value)


SPANS = {
    "use_fast_v": ("fast_v_sys_length", "fast_v_image_token_length"),
    "use_hmap_v": ("hmap_v_sys_length", "hmap_v_img_length"),
    "use_token_condensation": ("hmap_v_sys_length", "hmap_v_img_length"),
    "use_custom_selection": ("custom_sys_length", "custom_image_token_length"),
}


def plan_from_config(config: LlamaConfig, attentions: Sequence[CrossAttention] = ()) -> list[Stage]:
    """The plan that the knobs spell; ``reduction`` and a ``use_*`` flag at once raise.

    ``attentions`` are the trained modules of the condensation stages, in their order; without them they are untrained.
    """
    check_knobs(vars(config))
    config.check_reduction()
    flags = active_flags(config)
    if config.reduction and flags:
        raise ValueError(f"reduction={config.reduction!r} and {flags[0]}=True are both set; use one of them")
    if not flags:
        return plan_from(config.reduction)
    if flags == ["use_fast_v"]:
        return [fastv_stage(config, config.fast_v_token_selection_method, config.fast_v_weighted_alpha)]
    if flags == ["use_custom_selection"]:
        return custom_selection_stages(config)
    if flags == ["use_hmap_v"]:
        return himap_stages(config)
    return condensation_stages(config, attentions)


def fastv_stage(config, method: str, alpha: float | str) -> Stage:
    """FastV's stage from an object with the ``fast_v_*`` knobs; its method may also be "text_weighted"."""
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


def himap_stages(config: LlamaConfig) -> list[Stage]:
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


def condensation_stages(config: LlamaConfig, attentions: Sequence[CrossAttention] = ()) -> list[Stage]:
    """Condensation's stages: at ``condensation_layers`` with ``condensation_ranks``, else at HiMAP's layers and ranks."""
    names, layers, ranks = condensation_levels(config)
    if not layers:
        raise ValueError(
            "use_token_condensation=True but no layer is given; set hmap_v_attn_txt_layer and hmap_v_attn_txt_rank"
            " (and hmap_v_attn_img_*), or condensation_layers and condensation_ranks"
        )
    count = len(layers)
    _not_growing(names[0], layers, names[1], ranks)
    if config.hidden_size % config.condensation_num_heads:
        raise ValueError(
            f"condensation_num_heads={config.condensation_num_heads} must divide the width hidden_size={config.hidden_size}"
        )
    strategies = _each("condensation_strategy", config.condensation_strategy, count)
    modules = list(attentions) or [None] * count
    if len(modules) != count:
        raise ValueError(
            f"the knobs ask for {count} condensation stages but the model was built with {len(modules)} modules;"
            " build it anew with this config, and train or load the new ones"
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


def condensation_levels(config: LlamaConfig) -> tuple[tuple[str, str], list[int], list[int | float]]:
    """The knobs that say where condensation happens, and what they say: names, layers, ranks (both empty: nothing)."""
    layers, ranks = config.condensation_layers, config.condensation_ranks
    names = "condensation_layers", "condensation_ranks"
    if (layers is None) != (ranks is None):
        raise ValueError(f"{names[0]}={layers!r} and {names[1]}={ranks!r} belong together; give both, or neither")
    if layers is not None:
        return names, layers, _each(names[1], ranks, len(layers))
    levels = _himap_levels(config)
    return ("hmap_v_attn_*_layer", "hmap_v_attn_*_rank"), [level[1] for level in levels], [level[2] for level in levels]


def custom_selection_stages(config: LlamaConfig) -> list[Stage]:
    """Custom selection's stages from the ``custom_*`` knobs; lists give one stage an entry."""
    layers = config.custom_agg_layer if isinstance(config.custom_agg_layer, list) else [config.custom_agg_layer]
    kept = _each("custom_kept_tokens", config.custom_kept_tokens, len(layers))
    strategies = _each("custom_selection_method", config.custom_selection_method, len(layers))
    if len(layers) > 1 and config.custom_placement == "zero_fill":
        raise ValueError(
            f"custom_agg_layer={layers} needs custom_placement='drop': after a zero-filled stage the next would choose"
            " among zeros"
        )
    _not_growing("custom_agg_layer", layers, "custom_kept_tokens", kept)
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


def _stage(method: str, **options: tuple[str, object]) -> Stage:
    """A stage from ``option=(knob, value)``; an error says from which knob the value came."""
    try:
        return make_stage(method, **{option: value for option, (_, value) in options.items()})
    except ValueError as error:
        knob, _ = options.get(str(error).partition("=")[0], ("", None))
        raise ValueError(f"{knob}: {error}" if knob else str(error)) from error


def _himap_levels(config: LlamaConfig) -> list[tuple[str, int, int | float]]:
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
        layers, ranks = ([level[place] for level in levels] for place in (1, 2))
        _not_growing("hmap_v_attn_*_layer", layers, "hmap_v_attn_*_rank", ranks)
    return levels


def _with_cut_off(config: LlamaConfig, stages: list[Stage]) -> list[Stage]:
    """The stages before ``cut_off_layer``, and from there on no image token at all."""
    last = config.cut_off_layer
    if last is None or last == 0 or last >= config.num_hidden_layers:
        return stages
    return [*(stage for stage in stages if stage.layer < last), make_stage("blind", layer=last)]


def _each(name: str, value, count: int) -> list:
    """A knob's value for each of ``count`` stages."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name}={value!r} has {len(value)} entries for {count} stages; give one each, or a single value"
        )
    return value


def _not_growing(layer_name: str, layers: list, rank_name: str, ranks: list) -> None:
    """Layers must go up and counts must not."""
    if any(later <= earlier for earlier, later in zip(layers, layers[1:])):
        raise ValueError(f"{layer_name}={layers} must go up, one stage a layer")
    counts = [rank for rank in ranks if not isinstance(rank, float)]
    if any(later > earlier for earlier, later in zip(counts, counts[1:])):
        raise ValueError(
            f"{rank_name}={ranks} at {layer_name}={layers} must not grow with depth: what is gone stays gone"
        )


def span_override(config: LlamaConfig, visual: Tensor | None, valid: Tensor) -> Tensor | None:
    """The prompt's image map (B, P): as given, or made from a hand-typed span; both, and they disagree: ValueError.

    A span that does not fit into the sequence means that there is no image in it.
    """
    flags = active_flags(config)
    names = SPANS[flags[0]] if flags else ()
    start, length = (getattr(config, name) for name in names) if names else (None, None)
    if visual is None:
        if start is None or length is None or start + length > valid.shape[1]:
            return None
        padding = valid.long().argmax(1, keepdim=True)
        place = torch.arange(valid.shape[1], device=valid.device)[None] - padding
        return ((place >= start) & (place < start + length)).long()
    for name, wanted, actual in ((names[0], start, _first), (names[1], length, _count)) if names else ():
        found = [actual(row, keep) for row, keep in zip(visual, valid) if row.any()]
        if wanted is not None and any(number != wanted for number in found):
            other = next(number for number in found if number != wanted)
            raise ValueError(
                f"{name}={wanted} but the prompt says {other}; leave {name} unset to read it from the prompt"
            )
    return visual


def _first(visual: Tensor, valid: Tensor) -> int:
    return int(visual.bool().long().argmax() - valid.long().argmax())


def _count(visual: Tensor, valid: Tensor) -> int:
    return int(visual.bool().sum())

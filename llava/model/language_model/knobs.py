"""From the configuration's documented knobs to stages, and to the image span where one is given by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from llava.reduction import Stage, list_methods, make_stage, plan_from

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


def plan_from_config(config: LlamaConfig) -> list[Stage]:
    """The plan that the knobs spell; ``reduction`` and a ``use_*`` flag at once raise."""
    check_knobs(vars(config))
    config.check_reduction()
    flags = active_flags(config)
    if config.reduction and flags:
        raise ValueError(f"reduction={config.reduction!r} and {flags[0]}=True are both set; use one of them")
    if flags == ["use_fast_v"]:
        return [fastv_stage(config, config.fast_v_token_selection_method, config.fast_v_weighted_alpha)]
    if flags:
        raise ValueError(
            f"{flags[0]}=True asks for a method that is not built in yet; there are {', '.join(list_methods())}"
        )
    return plan_from(config.reduction)


def fastv_stage(config, method: str, alpha: float) -> Stage:
    """FastV's stage from an object with the ``fast_v_*`` knobs."""
    placement = config.fast_v_placement
    if config.fast_v_inplace is not None:
        placement = "drop" if config.fast_v_inplace else "mask"
    return make_stage(
        "fastv",
        layer=config.fast_v_agg_layer,
        keep=config.fast_v_attention_rank,
        place=placement,
        heads=method,
        alpha=alpha,
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

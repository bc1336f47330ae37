"""What the page's controls say: a method, a layer and a budget as a plan."""

from __future__ import annotations

from dataclasses import dataclass

from llava.reduction import get_method, plan_from
from llava.reduction.registry import summary_of


@dataclass(frozen=True)
class Controls:
    """What can be set for a method in a decoder of this many layers.

    last_layer: the highest layer that can be chosen; 0: none can. layer: where the method usually stands; 0: its own place,
    which may be several. least: the smallest budget; None: the method takes no budget. about: one sentence.
    """

    last_layer: int
    layer: int
    least: int | None
    about: str


def controls(method: str, layers: int) -> Controls:
    """The controls of a method. Raises ValueError for a method that is not known."""
    kind = get_method(method)
    usual = plan_from(f"{method}:50%" if kind.wants_keep and not kind.scheduled else method)[0].layer or 0
    return Controls(
        last_layer=layers - 1 if "layer" in kind.sites else 0,
        layer=min(usual, layers - 1),
        least=max(1, kind.least_keep) if kind.wants_keep else None,
        about=summary_of(kind).rstrip(":.") + ".",
    )


def spelled(method: str, layer: int, budget: int, percent: bool = False) -> str:
    """The plan of the controls: ``fastv@2:64``. layer 0: the method's own place. percent: of the picture's tokens.

    What the method does not take is left out. Raises ValueError for a method that is not known.
    """
    kind = get_method(method)
    where = f"@{layer}" if layer and "layer" in kind.sites else ""
    keep = f":{budget}{'%' if percent else ''}" if kind.wants_keep else ""
    return f"{method}{where}{keep}"

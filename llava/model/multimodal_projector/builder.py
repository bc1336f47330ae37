"""What carries a visual feature into the width of the language model."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from llava.absent import absent_names

__getattr__ = absent_names(__name__)


class IdentityMap(nn.Identity):
    """The projector of type "identity", under LLaVA's name: features pass unchanged."""

    @property
    def config(self) -> dict[str, str]:
        """The entry of a config that builds it."""
        return {"mm_projector_type": "identity"}


def build_vision_projector(config: Any, **kwargs: Any) -> nn.Module:
    """The projector (.., mm_hidden_size) -> (.., hidden_size) that `config.mm_projector_type` names.

    "linear" (default), "mlpNx_gelu" with N (1 to 99) Linear layers and GELU between them, or "identity". kwargs are accepted
    for LLaVA's sake. Raises ValueError for another type.
    """
    kind = getattr(config, "mm_projector_type", None) or "linear"
    if kind == "identity":
        return IdentityMap()
    if kind == "linear":
        return nn.Linear(config.mm_hidden_size, config.hidden_size)
    depth = re.fullmatch(r"mlp([1-9]\d?)x_gelu", kind)
    if depth is None:
        raise ValueError(f"mm_projector_type={kind!r} is unknown; give 'linear', 'mlp2x_gelu' (1 to 99) or 'identity'")
    layers: list[nn.Module] = [nn.Linear(config.mm_hidden_size, config.hidden_size)]
    for _ in range(int(depth[1]) - 1):
        layers += [nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)]
    return nn.Sequential(*layers)

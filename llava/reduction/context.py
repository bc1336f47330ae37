"""``with reduced(model, plan):`` for a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .registry import Spec, plan_from


@contextmanager
def reduced(model: nn.Module, plan: Spec) -> Iterator[nn.Module]:
    """Run a model under a plan and give it back as it was: ``with reduced(model, "fastv@2:64"): model.generate(...)``.

    The plan replaces, for the block, whatever config and knobs say; "full" or "" turns every reduction off. Blocks nest.
    """
    stages = plan_from(plan)
    holders = [module for module in model.modules() if hasattr(module, "plan_override")]
    if not holders:
        raise ValueError(f"{type(model).__name__} holds no ReducibleLlamaModel; load it with load_pretrained_model")
    before = [holder.plan_override for holder in holders]
    for holder in holders:
        holder.plan_override = stages
    try:
        yield model
    finally:
        for holder, old in zip(holders, before):
            holder.plan_override = old

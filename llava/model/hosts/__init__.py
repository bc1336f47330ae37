"""Hosts of the engine: our own decoders, and the models of transformers as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from llava.reduction import context, plan_from
from llava.reduction.plan import Spec

from .families import HOSTS, Host
from .layout import Layout
from .outcome import kept_grids, last_outcome, model_trace
from .stock import attached

__all__ = ["HOSTS", "Host", "Layout", "kept_grids", "last_outcome", "model_trace", "reduced"]


@contextmanager
def reduced(model: nn.Module, plan: Spec, host: Host | None = None) -> Iterator[Any]:
    """Run a model under a plan and give it back as it was: ``with reduced(model, "fastv@2:64"): model.generate(...)``.

    ``model`` is one of ours, or a vision-language model or decoder of transformers as ``from_pretrained`` gives it; then
    ``host`` describes a family that is not known (``HOSTS``). A decoder alone is told where its images are by the keyword
    ``visual`` (B, S) of its forward and of generate, 0 or False for text. The plan replaces, for the block, whatever config
    and knobs say; "full" or "" turns every reduction off. Blocks nest.

    For a model of ours the plan holds for this thread or asyncio task alone; for a stock model also for threads that have no
    block of their own, such as the one in which a streamer generates. Raises ValueError for a model that is no host, and for
    a plan that it cannot run.
    """
    if any(hasattr(module, "stages") and hasattr(module, "plan") for module in model.modules()):
        if host is not None:
            raise ValueError(
                f"host={host.name!r} describes a stock model, but {type(model).__name__} is one of ours; leave it out"
            )
        with context.reduced(model, plan):
            yield model
    else:
        with attached(model, plan_from(plan), host):  # pyright: ignore[reportArgumentType]
            yield model

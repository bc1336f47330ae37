"""Which plan is in force, and what the last pass did: both belong to a context, never to a model that threads share.

A context is a thread or an asyncio task, as in ``contextvars``. Two users of one model can each have a plan.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from torch import nn

from .plan import Spec, plan_from
from .stage import Stage

logger = logging.getLogger(__name__)

_NOTHING: Mapping[int, Any] = MappingProxyType({})
# By id of the module, which the open block or the weak reference beside the value keeps meaningful. The mappings are
# replaced, never changed: contexts that were copied from one another share them.
_PLANS: ContextVar[Mapping[int, list[Stage]]] = ContextVar("plans", default=_NOTHING)
_PASSES: ContextVar[Mapping[int, tuple[weakref.ref, Any]]] = ContextVar("passes", default=_NOTHING)
_LATEST: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_OPEN: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()
_WARNED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def reduced(model: nn.Module, plan: Spec) -> Iterator[nn.Module]:
    """Run a model under a plan and give it back as it was: ``with reduced(model, "fastv@2:64"): model.generate(...)``.

    The plan replaces, for the block, whatever config and knobs say; "full" or "" turns every reduction off. Blocks nest.
    It holds for this thread or asyncio task alone, so that threads may run one model under different plans. A thread that
    is started inside the block has a context of its own: start it with ``contextvars.copy_context().run``, or give the
    plan to the call, ``model.generate(..., reduction=plan)``.
    """
    stages = plan_from(plan)
    decoders = [module for module in model.modules() if hasattr(module, "stages") and hasattr(module, "plan")]
    if not decoders:
        raise ValueError(f"{type(model).__name__} holds no ReducibleLlamaModel; load it with load_pretrained_model")
    before = _PLANS.get()
    _set_plans({id(decoder): stages for decoder in decoders})
    _count_open(decoders, 1)
    try:
        yield model
    finally:
        _count_open(decoders, -1)
        _set_plans({id(decoder): before.get(id(decoder)) for decoder in decoders})


def active_plan(decoder: nn.Module) -> list[Stage] | None:
    """The plan of the innermost ``reduced`` block of this context, None outside of any."""
    stages = _PLANS.get().get(id(decoder))
    if stages is None and _OPEN.get(decoder) and decoder not in _WARNED:
        _WARNED.add(decoder)
        logger.warning(
            "another thread has this model under reduced(...), this one has not and follows the config; to share the "
            "plan start the thread with contextvars.copy_context().run, or call generate(..., reduction=plan)"
        )
    return stages


def remember(module: nn.Module, record: Any) -> None:
    """Keep what the last pass through a module did, for this context."""
    alive = {key: entry for key, entry in _PASSES.get().items() if entry[0]() is not None}
    _PASSES.set({**alive, id(module): (weakref.ref(module), record)})
    _LATEST[module] = record


def recall(module: nn.Module, default: Any) -> Any:
    """What the last pass of this context through a module did; of any context where this one made none."""
    reference, record = _PASSES.get().get(id(module), (None, None))
    if reference is not None and reference() is module:
        return record
    return _LATEST.get(module, default)


def _set_plans(changed: Mapping[int, list[Stage] | None]) -> None:
    merged = {**_PLANS.get(), **changed}
    _PLANS.set({key: stages for key, stages in merged.items() if stages is not None})


def _count_open(decoders: list[nn.Module], change: int) -> None:
    with _LOCK:
        for decoder in decoders:
            _OPEN[decoder] = _OPEN.get(decoder, 0) + change

"""A stock cache that has been shortened: it tells its host the length of the whole sequence, and refuses to go on alone."""

from __future__ import annotations

from contextvars import ContextVar
from functools import cache
from typing import Any

from transformers.cache_utils import Cache

from llava.model.engine import STATE, CacheState

RUNNING: ContextVar[Any] = ContextVar("running", default=None)  # the current pass of this context


def guard(held: Cache) -> None:
    """Make a cache that holds a reduced prompt aware of it. Copies, beams and crops keep working."""
    held.__class__ = _reduced(type(held))


def removed(held: Cache) -> int:
    """By how many rows the first layer's cache is shorter than the sequence."""
    state: CacheState | None = getattr(held, STATE, None)
    return state.kept.get("removed", 0) if state else 0


@cache
def _reduced(base: type[Cache]) -> type[Cache]:
    if issubclass(base, _Reduced):
        return base
    return type(f"Reduced{base.__name__}", (_Reduced, base), {})


class _Reduced:
    """A mixin for a cache's own class. Lengths are those of the unreduced sequence, in which positions are counted."""

    layers: Any
    is_sliding: Any

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Rows of the unreduced sequence that have been cached."""
        return Cache.get_seq_length(self, layer_idx) + removed(self)  # pyright: ignore[reportArgumentType]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Where the next row stands in the unreduced sequence."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys of a layer and where they begin, as if none had been taken away; the masks that follow are replaced."""
        keys, gone = Cache.get_mask_sizes(self, query_length, layer_idx)  # pyright: ignore[reportArgumentType]
        return keys + removed(self), gone  # pyright: ignore[reportArgumentType]

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """As the cache's own. Raises ValueError outside of a pass that knows which keys are left."""
        if RUNNING.get() is None:
            raise ValueError(
                "this cache holds a reduced prompt, and the reduced(...) block that made it is closed; go on inside the"
                " block, or begin again with an empty cache"
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)  # pyright: ignore

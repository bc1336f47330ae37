"""One forward of a stock decoder: the pass of the engine that its layers are in.

Shapes: B rows, S positions, S' rows that are left, D width.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llava.model.engine import CACHE, STATE, CacheState, Inputs, Pass, Prefill, Prompt, Step
from llava.reduction import Stage
from llava.reduction.context import remember

from .call import Call, Encoded, Sight, image_map, row_seeds
from .entry import Entry, regions
from .guard import guard
from .outcome import Outcome
from .parts import Parts
from .seen import SeenParts


@dataclass(eq=False, frozen=True)
class Answer:
    """An answer that is being generated: positions of its prompt, and how its images were encoded before the first forward."""

    prompt: int | None
    encoded: dict[str, Encoded] = field(default_factory=dict)


ANSWER: ContextVar[Answer | None] = ContextVar("answer", default=None)  # the answer that is being generated


class Forward:
    """One forward of the decoder: its pass, begun at the first layer, where the cache is known."""

    def __init__(self, parts: Parts, plan: Callable[[], list[Stage]], call: Call, given: dict[str, Any]):
        self.parts, self.plan, self.call, self.given = parts, plan, call, given
        self.rows, self.length = (
            given["input_ids"] if given.get("inputs_embeds") is None else given["inputs_embeds"]
        ).shape[:2]
        self.run: Pass | None = None
        self.sights: list[Sight] = []
        self._done: dict[int, tuple[dict[str, Any], Tensor | None]] = {}

    def shift(self) -> Tensor | None:
        """How far a step's positions have moved, where the prompt was numbered again."""
        state: CacheState | None = getattr(cache_of(self.given), STATE, None)
        positions = self.given.get("position_ids")
        if state is None or positions is None or "shift" not in state.kept:
            return None
        return state.kept["shift"].to(positions.device)

    def before(self, number: int, given: dict[str, Any]) -> dict[str, Any]:
        """What layer ``number`` is given in place of what the stock loop gives it."""
        hidden = given["hidden_states"]
        if number in self._done:  # a layer that checkpointing runs again
            changed, index = self._done[number]
            return {**changed, "hidden_states": hidden if index is None else _rows(hidden, index)}
        if self.run is None:
            self.run = self._begin(hidden, given)
        inputs = Inputs(hidden, given["position_embeddings"], given.get("attention_mask"), given.get("position_ids"))
        origin = None if self.run.ledger is None else self.run.ledger.origin
        handed = self.run.before(number, inputs)
        if handed is inputs:
            changed = {}
        else:
            changed = {
                "attention_mask": handed.mask,
                "position_embeddings": handed.rope,
                "position_ids": handed.position_ids,
            }
        self._remember(number, changed, origin)
        return {**changed, "hidden_states": handed.hidden}

    def _remember(self, number: int, changed: dict[str, Any], origin: Tensor | None) -> None:
        if not self.parts.checkpoints:
            return
        run = self.run
        index = None
        if isinstance(run, Prefill) and origin is not None and run.ledger.origin.shape != origin.shape:
            index = _found(run.ledger.origin, origin)
        self._done[number] = changed, index

    def _begin(self, hidden: Tensor, given: dict[str, Any]) -> Pass:
        call, parts, cache = self.call, self.parts, cache_of(given)
        past = cache.get_seq_length() if cache is not None else 0
        if past or self.length == 1:
            if past and call.has_pixels and self.plan():
                raise ValueError(
                    f"an image arrives after {past} tokens that are cached already; reduction needs a prompt whole: begin with an"
                    " empty cache"
                )
            return Step(parts.text, parts.config, call.mask, self.given.get("position_ids"), cache, past, self.length)
        answer = ANSWER.get()
        if answer is not None:
            call.known = answer.encoded
        self.sights = call.sights()
        visual, grids = image_map(self.sights, (self.rows, self.length), hidden.device)
        if cache is not None and getattr(cache, "is_compileable", False) and self.sights:
            raise ValueError(
                f"{type(cache).__name__} is as long in every layer and cannot hold a reduced prompt; leave"
                " cache_implementation out, or use 'dynamic'"
            )
        plan = self.plan()
        self._check_gradients(plan)
        own = self._own_masks()
        tower, features = self._seen(plan)
        entry = Entry(plan, parts.host, parts.projector, features, self.sights, tower, compact=not parts.several_axes)
        seeds = row_seeds(self.sights, self.rows).to(hidden.device)
        return Prefill(
            parts.text, parts.config, lambda: plan, hidden, call.mask, self._positions(hidden), cache,
            Prompt(visual[:, : None if answer is None else answer.prompt], seeds, call.labels, grids=grids), entry, own,
        )  # fmt: skip

    def _check_gradients(self, plan: list[Stage]) -> None:
        merging = [stage for stage in plan if stage.reducer.merges]
        if merging and self.parts.checkpoints:
            raise ValueError(
                f"{merging[0]} merges tokens inside a layer that gradient checkpointing runs twice; train without"
                " checkpointing, or with a method that keeps tokens as they are"
            )

    def _positions(self, hidden: Tensor) -> Tensor:
        positions = self.given.get("position_ids")
        if positions is None:
            return torch.arange(self.length, device=hidden.device)[None]
        if positions.dim() == 3:
            positions = positions[-3:]
        return positions.to(hidden.device)

    def _own_masks(self) -> bool:
        given = self.given.get("attention_mask")
        return isinstance(given, dict) or isinstance(given, Tensor) and given.dim() == 4

    def _seen(self, plan: list[Stage]) -> tuple[SeenParts | None, list[Tensor]]:
        """What the tower saw of all pictures, and what went into the projector."""
        parts, host = self.parts, self.parts.host
        if host is None or not any(stage.site in ("features", "projected") for stage in plan):
            return None, []
        made = [encoded for kind in ("image", "video") if (encoded := self.call.encoded(kind)) is not None]
        entered: dict[int, list[tuple[tuple, dict]]] = {}
        for encoded in made:
            for number, calls in encoded.tower.items():
                entered.setdefault(number, []).extend(calls)
        order = None
        if host.order is not None and entered:
            grids = [encoded.arguments.get(f"{kind}_grid_thw") for encoded in made for kind in ("image", "video")]
            order = host.order(parts.tower, torch.cat([grid for grid in grids if grid is not None]))
        where, cells = regions(self.sights)
        tower = SeenParts(
            parts.blocks, entered, where, cells, parts.has_class, parts.made, host.grouped, order, self._selected()
        )
        return tower, [features for encoded in made for features in encoded.features]

    def _selected(self) -> Tensor | None:
        output = self.call.output("image")
        states = getattr(output, "hidden_states", None)
        if states is not None:
            return states[self.parts.made + 1]
        return getattr(output, "last_hidden_state", None)

    def finished(self, output: Any) -> Any:
        """The decoder's output, as long as its input: zeros where a row has left."""
        run = self.run
        if run is None:
            return output
        run.finish()
        if not isinstance(run, Prefill):
            return output
        if self.sights:
            remember(self.parts.model, Outcome(self.sights, run.record, self.rows))
        cache = output.get(CACHE) if hasattr(output, "get") else None
        if run.segments:
            if cache is not None and run.cache is not None:
                self._mark(run.cache, run)
            output.last_hidden_state = _scattered(output.last_hidden_state, run, self.length)
        return output

    def _mark(self, cache: Any, run: Prefill) -> None:
        state: CacheState = getattr(cache, STATE)
        first = run.record.ledgers[0]
        state.kept["removed"] = self.length - first.valid.shape[1]
        if run.entry is not None and not self.parts.several_axes and first is not run.first:
            ends = [ledger.position.gather(1, ledger.last()[:, None]) for ledger in (run.first, first)]
            state.kept["shift"] = ends[0] - ends[1]
        deltas = getattr(self.parts.core, "rope_deltas", None)
        if deltas is not None:
            state.kept["rope_deltas"] = deltas
        guard(cache)


def named(stock: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, however they were given."""
    if not args:
        return dict(kwargs)
    function = getattr(stock, "__func__", None)
    names = _names(stock) if function is None else _method_names(function)
    return {**dict(zip(names, args)), **kwargs}


@functools.lru_cache(maxsize=256)
def _method_names(function: Callable) -> tuple[str, ...]:
    # Of a class's function, which may be cached; a bound method would keep its model alive.
    return _names(function)[1:]


def _names(function: Callable) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def cache_of(given: dict[str, Any]) -> Any:
    """The cache among the arguments of a forward, under either of its names."""
    return given.get("cache", given.get("past_key_values"))


def _rows(states: Tensor, index: Tensor) -> Tensor:
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def _found(after: Tensor, before: Tensor) -> Tensor:
    """Where the origins ``after`` (B, S') stand among those ``before`` (B, S), which ascend after their padding."""
    return (after[:, :, None] == before[:, None]).long().argmax(-1)


def _scattered(states: Tensor, run: Prefill, length: int) -> Tensor:
    """States (B, S', D) of the rows that are left at their places in the prompt (B, S, D), zeros elsewhere."""
    ledger = run.ledger.to(states.device)
    whole = states.new_zeros(len(states), length, states.shape[-1])
    source = torch.where(ledger.valid[..., None], states, 0)
    return whole.scatter_add(1, ledger.origin[..., None].expand_as(states), source)

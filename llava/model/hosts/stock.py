"""``reduced`` on a model of transformers as it is: the model is given a plan for a block, and then back as it was.

What is attached is an attribute ``forward`` on the modules of this one model: on the model, whose arguments tell what is
taught; on its core, whose arguments tell where the images are; on the decoder; on every decoder layer, which is given other
rows than the loop believes. No class is changed and no file copied. The pass travels through the stock loop as one more
keyword, so that nothing is left behind by an exception and a layer replayed by checkpointing finds its own.

Shapes: B rows, S positions, D width.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava.model.engine import CACHE, STATE, CacheState, Inputs, Pass, Prefill, Prompt, Step
from llava.reduction import Stage, check_plan, spelled_out
from llava.reduction.context import remember
from llava.reduction.stage import BATCHED_SITES

from .call import ENCODED, Call, Encoded, Sight, image_map, row_seeds
from .entry import Entry, regions
from .families import Host, host_of
from .guard import RUNNING, guard
from .outcome import Outcome
from .parts import Parts
from .seen import SeenParts, layer_number

PASS = "llava_pass"  # the keyword under which a pass goes through the stock loop
_ANSWER: ContextVar[_Answer | None] = ContextVar("answer", default=None)  # the answer that is being generated
_ENCODING: ContextVar[Encoded | None] = ContextVar("encoding", default=None)
_CALL: ContextVar[Call | None] = ContextVar("call", default=None)
_OPEN: ContextVar[tuple[_Block, ...]] = ContextVar("open", default=())  # the blocks of this context
_ATTACHED: dict[int, Attachment] = {}
_LOCK = threading.Lock()


@contextmanager
def attached(model: PreTrainedModel, plan: list[Stage], host: Host | None = None) -> Iterator[PreTrainedModel]:
    """Run a stock model under a plan, and give it back bit for bit.

    The plan holds for every thread that has no block of its own, so that a thread started inside, as a streamer needs one,
    is under it too; where threads have blocks with several plans, such a thread is an error. Blocks nest; the inner one wins. Raises ValueError for a model that cannot be attached to, and for a plan that it cannot run.
    """
    with _LOCK:
        attachment = _ATTACHED.get(id(model))
        if attachment is None:
            attachment = Attachment(model, host)
        attachment.check(plan)
        if not attachment.blocks:
            attachment.attach()
            _ATTACHED[id(model)] = attachment
        block = _Block(attachment, plan, threading.get_ident())
        attachment.blocks.append(block)
    token = _OPEN.set((*_OPEN.get(), block))
    try:
        yield model
    finally:
        _OPEN.reset(token)
        with _LOCK:
            attachment.blocks.remove(block)
            if not attachment.blocks:
                attachment.detach()
                del _ATTACHED[id(model)]


@dataclass(eq=False, frozen=True)
class _Answer:
    """An answer that is being generated: positions of its prompt, and how its images were encoded before the first forward."""

    prompt: int | None
    encoded: dict[str, Encoded] = field(default_factory=dict)


@dataclass(eq=False, frozen=True)
class _Block:
    """An open block: whose it is, its plan, the thread that opened it."""

    attachment: Attachment
    plan: list[Stage]
    thread: int


class Attachment:
    """What is attached to one stock model while any block about it is open."""

    def __init__(self, model: PreTrainedModel, host: Host | None):
        self.parts = Parts.of(model, host or host_of(model))
        self.blocks: list[_Block] = []
        self._replaced: list[tuple[nn.Module, str, Any, Any]] = []

    # ------------------------------------------------------------------------------------------------------ the plan

    def plan(self) -> list[Stage]:
        """The plan of this context's innermost block; in a thread without one that of the other threads, where it is one.

        Raises ValueError where other threads have the model under several.
        """
        own = [block for block in _OPEN.get() if block.attachment is self]
        if own:
            return self._fitted(own[-1].plan)
        innermost = {block.thread: block.plan for block in list(self.blocks)}
        plans = list(innermost.values())
        if any(plan != plans[0] for plan in plans):
            raise ValueError(
                f"this thread has no reduced(...) block of its own, and others have {type(self.parts.model).__name__} under"
                " several plans; open a block in this thread, or start it with contextvars.copy_context().run"
            )
        return self._fitted(plans[0] if plans else [])

    def _fitted(self, plan: list[Stage]) -> list[Stage]:
        """A plan spelled out; where positions cannot be counted again a method's default to do so is left out."""
        stages = spelled_out(plan, len(self.parts.text.layers))
        if self.parts.counts_positions:
            return stages
        usual = [stage.positions == stage.reducer.default_positions for stage in stages]
        return [replace(stage, positions="original") if same else stage for stage, same in zip(stages, usual)]

    def check(self, plan: list[Stage]) -> None:
        """Refuse a plan that this host cannot run."""
        sites = ("features", "projected", "prompt", "layer")
        for stage in self._fitted(plan):
            if stage.site in BATCHED_SITES:
                raise ValueError(
                    f"{stage} stands at site={stage.site!r}, inside the tower of {type(self.parts.model).__name__}, which is left"
                    " as it is; use a method at 'features', 'projected', 'prompt' or in a layer, such as divprune, or a"
                    " checkpoint in LLaVA's own layout"
                )
            if stage.positions == "compact" and not self.parts.counts_positions:
                raise ValueError(
                    f"positions='compact' of {stage} has no meaning for {type(self.parts.text).__name__}, whose positions"
                    " are not one count from the start; use positions='original'"
                )
        check_plan(plan, len(self.parts.text.layers), sites)

    # ---------------------------------------------------------------------------------------------- attach and detach

    def attach(self) -> None:
        """Put our forwards on the modules of the model."""
        parts = self.parts
        visual = parts.core is None
        if parts.model is not parts.text and parts.model is not parts.core:
            self._replace(parts.model, "forward", self._outer, takes_visual=visual)
        if hasattr(parts.model, "generate"):
            self._replace(parts.model, "generate", self._generate)
        if parts.core is not None:
            self._replace(parts.core, "forward", self._core)
            for kind in ("image", "video"):
                if hasattr(parts.core, f"get_{kind}_features"):
                    self._replace(parts.core, f"get_{kind}_features", functools.partial(self._features, kind))
            projector = parts.projector
            if projector is not None:
                self._replace(projector, "forward", self._projector)
            for number, block in enumerate(parts.blocks):
                self._replace(block, "forward", functools.partial(self._tower, number))
        self._replace(parts.text, "forward", self._text, takes_visual=visual)
        if hasattr(parts.text, "_deepstack_process"):
            self._replace(parts.text, "_deepstack_process", self._deepstack)
        for number, layer in enumerate(parts.text.layers):
            self._replace(layer, "forward", functools.partial(self._layer, number))

    def detach(self) -> None:
        """Take away what is still ours, whatever was put over it since."""
        for module, name, before, ours in reversed(self._replaced):
            if module.__dict__.get(name) is ours:
                if before is None:
                    del module.__dict__[name]
                else:
                    module.__dict__[name] = before
            elif module.__dict__.get("_old_forward") is ours:  # a hook of accelerate's was put over it
                module.__dict__["_old_forward"] = before or functools.partial(getattr(type(module), name), module)
        self._replaced.clear()

    def _replace(self, module: nn.Module, name: str, wrapper: Callable, takes_visual: bool = False) -> None:
        stock, before = getattr(module, name), module.__dict__.get(name)

        @functools.wraps(stock)
        def ours(*args: Any, **kwargs: Any) -> Any:
            return wrapper(stock, *args, **kwargs)

        if takes_visual:
            signature = inspect.signature(stock)
            named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
            rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
            extra = inspect.Parameter("visual", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Tensor)
            ours.__signature__ = signature.replace(parameters=[*named, extra, *rest])  # pyright: ignore
        module.__dict__[name] = ours
        self._replaced.append((module, name, before, ours))

    # ------------------------------------------------------------------------------------------------- the wrappers

    @staticmethod
    def _generate(stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """An answer: what it adds to the prompt is no part of the question, even where it is read again without a cache."""
        given = _named(stock, args, kwargs)
        prompt = next(
            (given[name] for name in ("input_ids", "inputs", "inputs_embeds") if given.get(name) is not None), None
        )
        token = _ANSWER.set(_Answer(None if prompt is None else prompt.shape[1]))
        try:
            return stock(*args, **kwargs)
        finally:
            _ANSWER.reset(token)

    def _outer(self, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """The whole model: its labels tell where an answer begins."""
        visual = kwargs.pop("visual", None)
        given = _named(stock, args, kwargs)
        call = Call(self.parts.host, self.parts.model, given, labels=given.get("labels"), visual=visual)
        token = _CALL.set(call)
        try:
            return stock(*args, **kwargs)
        finally:
            _CALL.reset(token)

    def _core(self, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """The module that is given pixels and prompt."""
        given = _named(stock, args, kwargs)
        outer = _CALL.get()
        call = Call(self.parts.host, self.parts.core, given)
        if outer is not None:
            call.labels, call.visual = outer.labels, outer.visual
        state = getattr(_cache(given), STATE, None)
        if state is not None and "rope_deltas" in state.kept:
            self.parts.core.rope_deltas = state.kept["rope_deltas"]
        token = _CALL.set(call)
        try:
            return stock(*args, **kwargs)
        finally:
            _CALL.reset(token)

    def _watched(self) -> frozenset[int]:
        early = [stage for stage in self.plan() if stage.site in ("features", "projected")]
        layers = {layer for stage in early for layer in stage.reducer.tower_layers}
        if layers and not self.parts.blocks:
            raise ValueError(
                f"{early[0]} reads the attention of the tower, which {type(self.parts.model).__name__} does not show; use a"
                " method that reads none, such as divprune"
            )
        return frozenset(layer_number(layer, len(self.parts.blocks), self.parts.made) for layer in layers)

    def _features(self, kind: str, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """From pixels to tokens, which generate does before its first forward; how it was done stays with the result."""
        encoded = Encoded(_named(stock, args, kwargs), self._watched())
        token = _ENCODING.set(encoded)
        try:
            output = stock(*args, **kwargs)
        finally:
            _ENCODING.reset(token)
        encoded.lengths = [part.shape[-2] for part in output.pooler_output]
        setattr(output, ENCODED, encoded)
        if (answer := _ANSWER.get()) is not None:
            answer.encoded[kind] = encoded
        if (call := _CALL.get()) is not None:
            call.outputs[kind] = output
        return output

    @staticmethod
    def _projector(stock: Callable, *args: Any, **kwargs: Any) -> Any:
        if (encoded := _ENCODING.get()) is not None and args:
            encoded.features.append(args[0])
        return stock(*args, **kwargs)

    @staticmethod
    def _tower(number: int, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        if (encoded := _ENCODING.get()) is not None and number in encoded.watched:
            encoded.tower.setdefault(number, []).append((args, kwargs))
        return stock(*args, **kwargs)

    def _text(self, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """The decoder: the pass begins here, and its output is as long as its input."""
        visual = kwargs.pop("visual", None)
        given = _named(stock, args, kwargs)
        call = _CALL.get() or Call(self.parts.host, self.parts.text, given, visual=visual)
        if visual is not None:
            call.visual = visual
        running = _Running(self, call, given)
        shift = running.shift()
        if shift is not None:
            kwargs, args = {**given, "position_ids": given["position_ids"] - shift}, ()
        token = RUNNING.set(running)
        try:
            output = stock(*args, **kwargs, **{PASS: running})
        finally:
            RUNNING.reset(token)
        return running.finished(output)

    @staticmethod
    def _layer(number: int, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        running: _Running | None = kwargs.pop(PASS, None)
        if running is None:
            return stock(*args, **kwargs)
        given = _named(stock, args, kwargs)
        given |= running.before(number, given)
        # By position: that is what checkpointing takes for the input with a gradient.
        return stock(given.pop("hidden_states"), **given)

    @staticmethod
    def _deepstack(stock: Callable, hidden: Tensor, visual: Tensor, features: Tensor) -> Any:
        """Features of the tower for the visual rows that are left: they come in order of row and column."""
        running: _Running | None = RUNNING.get()
        ledger = None if running is None or running.run is None else running.run.ledger
        if ledger is None or hidden.shape[1] == visual.shape[1]:
            return stock(hidden, visual, features)
        rank = (visual.flatten().long().cumsum(0) - 1).view(visual.shape)
        origin = ledger.origin.to(visual.device)
        left = visual.gather(1, origin) & (ledger.valid & ledger.visible).to(visual.device)
        return stock(hidden, left, features[rank.gather(1, origin)[left]])


class _Running:
    """One forward of the decoder: its pass, begun at the first layer, where the cache is known."""

    def __init__(self, attachment: Attachment, call: Call, given: dict[str, Any]):
        self.parts, self.attachment, self.call, self.given = attachment.parts, attachment, call, given
        self.rows, self.length = (
            given["input_ids"] if given.get("inputs_embeds") is None else given["inputs_embeds"]
        ).shape[:2]
        self.run: Pass | None = None
        self.sights: list[Sight] = []
        self._done: dict[int, dict[str, Any]] = {}
        self._index: dict[int, Tensor | None] = {}

    def shift(self) -> Tensor | None:
        """How far a step's positions have moved, where the prompt was numbered again."""
        state: CacheState | None = getattr(_cache(self.given), STATE, None)
        positions = self.given.get("position_ids")
        if state is None or positions is None or "shift" not in state.kept:
            return None
        return state.kept["shift"].to(positions.device)

    def before(self, number: int, given: dict[str, Any]) -> dict[str, Any]:
        """What layer ``number`` is given in place of what the stock loop gives it."""
        hidden = given["hidden_states"]
        if number in self._done:  # a layer that checkpointing runs again
            index = self._index[number]
            return {**self._done[number], "hidden_states": hidden if index is None else _rows(hidden, index)}
        if self.run is None:
            self.run = self._begin(hidden, given)
        inputs = Inputs(hidden, given["position_embeddings"], given.get("attention_mask"), given.get("position_ids"))
        origin = None if self.run.ledger is None else self.run.ledger.origin
        handed = self.run.before(number, inputs)
        if handed is inputs:
            changed: dict[str, Any] = {}
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
        self._done[number], self._index[number] = changed, index

    def _begin(self, hidden: Tensor, given: dict[str, Any]) -> Pass:
        call, parts, cache = self.call, self.parts, _cache(given)
        past = cache.get_seq_length() if cache is not None else 0
        mask = call.mask if call.arguments else None
        if past or self.length == 1:
            if past and call.has_pixels and self.attachment.plan():
                raise ValueError(
                    f"an image arrives after {past} tokens that are cached already; reduction needs a prompt whole: begin with an"
                    " empty cache"
                )
            return Step(parts.text, parts.config, mask, self.given.get("position_ids"), cache, past, self.length)
        answer = _ANSWER.get()
        if answer is not None:
            call.known = answer.encoded
        self.sights = call.sights()
        visual, grids = image_map(self.sights, (self.rows, self.length), hidden.device)
        if cache is not None and getattr(cache, "is_compileable", False) and self.sights:
            raise ValueError(
                f"{type(cache).__name__} is as long in every layer and cannot hold a reduced prompt; leave"
                " cache_implementation out, or use 'dynamic'"
            )
        plan = self.attachment.plan()
        self._check_gradients(plan)
        own = self._own_masks()
        tower, features = self._seen(plan)
        entry = Entry(plan, parts.host, parts.projector, features, self.sights, tower, compact=not parts.several_axes)
        seeds = row_seeds(self.sights, self.rows).to(hidden.device)
        labels = call.labels
        positions = self._positions(hidden)
        return Prefill(
            parts.text, parts.config, lambda: plan, hidden, mask, positions, cache,
            Prompt(visual[:, : None if answer is None else answer.prompt], seeds, labels, grids=grids), entry, own,
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


def _named(stock: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, however they were given."""
    return {**inspect.signature(stock).bind_partial(*args).arguments, **kwargs}


def _cache(given: dict[str, Any]) -> Any:
    return given.get("cache", given.get("past_key_values"))


def _rows(states: Tensor, index: Tensor) -> Tensor:
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def _found(after: Tensor, before: Tensor) -> Tensor:
    """Where the origins ``after`` (B, S') stand among those ``before`` (B, S), which ascend behind their padding."""
    return (after[:, :, None] == before[:, None]).long().argmax(-1)


def _scattered(states: Tensor, run: Prefill, length: int) -> Tensor:
    """States (B, S', D) of the rows that are left at their places in the prompt (B, S, D), zeros elsewhere."""
    ledger = run.ledger.to(states.device)
    whole = states.new_zeros(len(states), length, states.shape[-1])
    source = torch.where(ledger.valid[..., None], states, 0)
    return whole.scatter_add(1, ledger.origin[..., None].expand_as(states), source)

"""``reduced`` on a model of transformers as it is: the model is given a plan for a block, and then back as it was.

What is attached is an attribute ``forward`` on the modules of this one model: on the model, whose arguments tell what is
taught; on its core, whose arguments tell where the images are; on the decoder; on every decoder layer, which is given other
rows than the loop believes. No class is changed and no file copied. The pass travels through the stock loop as one more
keyword, so that nothing is left behind by an exception and a layer replayed by checkpointing finds its own.

Shapes: B rows, S positions, D width.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from llava.model.engine import STATE
from llava.reduction import Stage, check_plan, spelled_out
from llava.reduction.stage import BATCHED_SITES, CROP_SITES, tower_layers

from .call import ENCODED, Call, Encoded
from .families import Host, host_of
from .forward import ANSWER, Answer, Forward, cache_of, named
from .guard import RUNNING
from .parts import Parts, base_of
from .replaced import Replaced
from .seen import layer_number

PASS = "llava_pass"  # the keyword under which a pass goes through the stock loop
_ENCODING: ContextVar[Encoded | None] = ContextVar("encoding", default=None)
_CALL: ContextVar[Call | None] = ContextVar("call", default=None)
_OPEN: ContextVar[tuple[_Block, ...]] = ContextVar("open", default=())  # the blocks of this context
_ATTACHED: dict[int, Attachment] = {}
_LOCK = threading.Lock()


@contextmanager
def attached(model: PreTrainedModel, plan: list[Stage], host: Host | None = None) -> Iterator[PreTrainedModel]:
    """Run a stock model under a plan, and give it back bit for bit.

    The plan holds for every thread that has no block of its own, so that a thread started inside, as a streamer needs one,
    is under it too; where threads have blocks with several plans, such a thread is an error. Blocks nest; the inner one wins.
    Raises ValueError for a model that cannot be attached to, and for a plan that it cannot run.
    """
    base = base_of(model)
    with _LOCK:
        attachment = _ATTACHED.get(id(base))
        if attachment is None:
            attachment = Attachment(base, host)
        attachment.check(plan)
        if not attachment.blocks:
            attachment.attach()
            _ATTACHED[id(base)] = attachment
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
                attachment.replaced.undo()
                del _ATTACHED[id(base)]


@dataclass(eq=False, frozen=True)
class _Block:
    """An open block: whose it is, its plan, the thread that opened it."""

    attachment: Attachment
    plan: list[Stage]
    thread: int


class Attachment:
    """What is attached to one stock model while any block for it is open."""

    def __init__(self, model: PreTrainedModel, host: Host | None):
        self.parts = Parts.of(model, host or host_of(model))
        self.blocks: list[_Block] = []
        self.replaced = Replaced()

    # ------------------------------------------------------------------------------------------------------ the plan

    def plan(self) -> list[Stage]:
        """The plan of this context's innermost block; in a thread without one, that which the others share.

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
        """A plan spelled out; where positions cannot be renumbered, a method's default to do so is left out."""
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
            self.replaced.put(parts.model, "forward", self._outer, takes_visual=visual)
        if hasattr(parts.model, "generate"):
            self.replaced.put(parts.model, "generate", self._generate)
        if parts.core is not None:
            self.replaced.put(parts.core, "forward", self._core)
            for kind in ("image", "video"):
                if hasattr(parts.core, f"get_{kind}_features"):
                    self.replaced.put(parts.core, f"get_{kind}_features", functools.partial(self._features, kind))
            projector = parts.projector
            if projector is not None:
                self.replaced.put(projector, "forward", self._projector)
            for number, block in enumerate(parts.blocks):
                self.replaced.put(block, "forward", functools.partial(self._tower, number))
        self.replaced.put(parts.text, "forward", self._text, takes_visual=visual)
        if hasattr(parts.text, "_deepstack_process"):
            self.replaced.put(parts.text, "_deepstack_process", self._deepstack)
        for number, layer in enumerate(parts.text.layers):
            self.replaced.put(layer, "forward", functools.partial(self._layer, number))

    # ------------------------------------------------------------------------------------------------- the wrappers

    @staticmethod
    def _generate(stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """An answer: what it adds to the prompt is no part of the question, even where it is read again without a cache."""
        given = named(stock, args, kwargs)
        prompt = next(
            (given[name] for name in ("input_ids", "inputs", "inputs_embeds") if given.get(name) is not None), None
        )
        token = ANSWER.set(Answer(None if prompt is None else prompt.shape[1]))
        try:
            return stock(*args, **kwargs)
        finally:
            ANSWER.reset(token)

    def _outer(self, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """The whole model: its labels tell where an answer begins."""
        visual = kwargs.pop("visual", None)
        given = named(stock, args, kwargs)
        call = Call(self.parts.host, self.parts.model, given, labels=given.get("labels"), visual=visual)
        token = _CALL.set(call)
        try:
            return stock(*args, **kwargs)
        finally:
            _CALL.reset(token)

    def _core(self, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """The module that is given pixels and prompt."""
        given = named(stock, args, kwargs)
        outer = _CALL.get()
        call = Call(self.parts.host, self.parts.core, given)
        if outer is not None:
            call.labels, call.visual = outer.labels, outer.visual
        state = getattr(cache_of(given), STATE, None)
        if state is not None and "rope_deltas" in state.kept:
            self.parts.core.rope_deltas = state.kept["rope_deltas"]
        token = _CALL.set(call)
        try:
            return stock(*args, **kwargs)
        finally:
            _CALL.reset(token)

    def _watched(self) -> frozenset[int]:
        layers = tower_layers(self.plan())
        if layers and not self.parts.blocks:
            early = next(stage for stage in self.plan() if stage.site in CROP_SITES)
            raise ValueError(
                f"{early} reads the attention of the tower, which {type(self.parts.model).__name__} does not show; use a"
                " method that reads none, such as divprune"
            )
        return frozenset(layer_number(layer, len(self.parts.blocks), self.parts.made) for layer in layers)

    def _features(self, kind: str, stock: Callable, *args: Any, **kwargs: Any) -> Any:
        """From pixels to tokens, which generate does before its first forward; how it was done stays with the result."""
        encoded = Encoded(named(stock, args, kwargs), self._watched())
        token = _ENCODING.set(encoded)
        try:
            output = stock(*args, **kwargs)
        finally:
            _ENCODING.reset(token)
        encoded.lengths = [part.shape[-2] for part in output.pooler_output]
        setattr(output, ENCODED, encoded)
        if (answer := ANSWER.get()) is not None:
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
        given = named(stock, args, kwargs)
        call = _CALL.get() or Call(self.parts.host, self.parts.text, given, visual=visual)
        if visual is not None:
            call.visual = visual
        running = Forward(self.parts, self.plan, call, given)
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
        running: Forward | None = kwargs.pop(PASS, None)
        if running is None:
            return stock(*args, **kwargs)
        given = named(stock, args, kwargs)
        given |= running.before(number, given)
        # By position: that is what checkpointing takes for the input with a gradient.
        return stock(given.pop("hidden_states"), **given)

    @staticmethod
    def _deepstack(stock: Callable, hidden: Tensor, visual: Tensor, features: Tensor) -> Any:
        """Features of the tower for the visual rows that are left: they come in order of row and column."""
        running: Forward | None = RUNNING.get()
        ledger = None if running is None or running.run is None else running.run.ledger
        if ledger is None or hidden.shape[1] == visual.shape[1]:
            return stock(hidden, visual, features)
        rank = (visual.flatten().long().cumsum(0) - 1).view(visual.shape)
        origin = ledger.origin.to(visual.device)
        left = visual.gather(1, origin) & (ledger.valid & ledger.visible).to(visual.device)
        return stock(hidden, left, features[rank.gather(1, origin)[left]])

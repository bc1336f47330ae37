"""A pass over a whole prompt, which applies the stages of a plan between the layers.

Shapes: B batch, S sequence, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from llava.reduction import Ledger, Stage
from llava.reduction.apply import Entered, reduce_sequence
from llava.reduction.evidence import LayerEvidence, LayerSource, Need, Source
from llava.reduction.evidence.attention import Rope

from .base import Decoder, Inputs, Pass, both
from .masks import as_allowed, gathered_mask, plain_mask, sliding_window
from .prompt import Prompt
from .state import STATE, CacheState, Segment

Entry = Callable[[Ledger, Tensor], Entered]  # of a ledger and the embedded prompt (B, S, D)


class Prefill(Pass):
    """A pass over a whole prompt: applies the stages of a plan, each before its layer.

    ``entry``: what a host does to the embedded prompt where it enters the first layer. ``own_masks``: the host's masks are
    more than causal ones, so that they are cut and never made again.
    """

    def __init__(
        self,
        decoder: Decoder,
        config: Any,
        plan: Callable[[], list[Stage]],
        hidden: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        cache: Cache | None,
        prompt: Prompt,
        entry: Entry | None = None,
        own_masks: bool = False,
    ):
        super().__init__(decoder, config, cache)
        batch, length = hidden.shape[:2]
        if attention_mask is None or attention_mask.dim() != 2:
            valid = torch.ones(batch, length, dtype=torch.bool, device=hidden.device)
        else:
            valid = attention_mask[:, :length].bool()
        visual, self.prompt, self.remarks = prompt.image_map(valid)
        self.after_prompt, self.seeds = length - self.prompt, prompt.sample_seeds(batch, hidden.device)
        size = prompt.token_sizes(length)
        self.length, self.own_masks = length, own_masks
        self.ledger: Ledger = Ledger.start(visual, valid, position_ids, self.prompt, prompt.labels, size=size)
        self.first = self.ledger
        stages = plan() if visual.any() else []
        self.entry = entry if any(stage.site != "layer" for stage in stages) else None
        self.stages = {stage.layer: stage for stage in stages if stage.site == "layer"}
        self.segments: list[Segment] = []
        self.grids = prompt.grids
        self.start: tuple[Ledger, Tensor] | None = None
        self.entered: dict[int, LayerSource] = {}
        self.moved = False  # rows or their positions are no longer those of the host
        self.turn: Tensor | None = (
            None  # (B, 1): from a position to the slot of the prompt that has it, once renumbered
        )

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """The reduced inputs from the first stage on; the same objects before it."""
        if number == 0:
            inputs = self._begin(inputs)
        if number in self.stages:
            inputs = replace(inputs, hidden=self._reduce(number, self.stages[number], inputs))
        self.record.ledgers.append(self.ledger)
        inputs = self._fitted(number, inputs)
        if self._is_read(number, number):
            self.entered[number] = self._layer_source(number, inputs)
        self.entered = {layer: source for layer, source in self.entered.items() if self._is_read(layer, number)}
        return inputs

    def _is_read(self, layer: int, number: int) -> bool:
        """Whether a stage after layer ``number`` reads what went into ``layer``."""
        behind = ((at, stage) for at, stage in self.stages.items() if at is not None and at > number)
        return any(at - looks_back(stage) <= layer for at, stage in behind)

    def _begin(self, inputs: Inputs) -> Inputs:
        """What enters the first layer; merged tokens weigh as much as what they stand for."""
        if self.entry is not None:
            entered = self.entry(self.ledger, inputs.hidden)
            self.record.trace += entered.records
            if entered.ledger is not self.ledger:
                inputs = replace(inputs, hidden=entered.hidden)
                self.ledger, self.moved = entered.ledger, True
                self.turn = self._turn() if entered.renumbered else None
                self.segments.append(self._segment(0, None))
        if any(Need.EMBEDDINGS in stage.needs for stage in self.stages.values()):
            self.start = self.ledger, inputs.hidden
        if self.ledger.size is not None and not self.segments:
            self.segments.append(self._segment(0, None))
        return inputs

    def _turn(self) -> Tensor:
        slot = self.first.valid.to(torch.uint8).argmax(1, keepdim=True)
        return slot - self.first.position.gather(1, slot)

    def finish(self) -> None:
        """Leave on the cache which keys of the prompt the layers may see."""
        if self.cache is not None:
            # A name of ours on transformers' object, which lives as long as the generation does.
            setattr(self.cache, STATE, CacheState(self.prompt, self.segments))

    def _fitted(self, number: int, inputs: Inputs) -> Inputs:
        """What the host made for the whole sequence, for the rows that are left."""
        if not self.segments:
            return inputs
        hidden, segment = inputs.hidden, self.segments[-1]
        rope, device = self._rope(inputs), hidden.device
        if self._is_cut(number, inputs.mask):
            ledger = self.ledger.to(device)
            mask = self._once(
                lambda: gathered_mask(inputs.mask.to(device), ledger.origin, ledger.visible, ledger.size, self.config),
                inputs.mask,
                segment.layer,
                device,
            )
        else:
            mask = self._once(lambda: self._causal(number, hidden), segment, device)
        return Inputs(hidden, rope, mask, None)

    def _is_cut(self, number: int, given: Any) -> bool:
        """Whether the host's mask of a layer is cut to the rows that are left; else a causal one is made for them.

        Raises ValueError for a window that the attention backend counts in the rows that are left.
        """
        window = self._shorter_window(number)
        if window is None and not self.own_masks:
            return False
        if self._has_own_mask(number, given):
            return True
        if self.own_masks and given is None:
            return False
        backend = self.config._attn_implementation
        raise ValueError(
            f"layer {number} sees {'more than a causal mask shows' if window is None else f'a window of {window}'}, which"
            f" attn_implementation={backend!r} counts in the rows that are left, not in the prompt's {self.length}; use"
            " 'sdpa' or 'eager'"
        )

    def _causal(self, number: int, hidden: Tensor) -> Any:
        ledger = self.ledger.to(hidden.device)
        return plain_mask(self.config, number, hidden, ledger.visible, self.cache, ledger.size)

    def _rope(self, inputs: Inputs) -> Rope:
        if not self.moved:
            return inputs.rope
        hidden, segment = inputs.hidden, self.segments[-1]
        ledger = self.ledger.to(hidden.device)
        if segment.shift is not None:

            def renumbered() -> Rope:
                return self.decoder.rotary_emb(hidden, position_ids=ledger.position)

            return self._once(renumbered, inputs.rope, segment.layer, hidden.device)
        index = ledger.origin if self.turn is None else (ledger.position + self.turn.to(hidden.device)).clamp(min=0)
        return self._once(
            lambda: both(inputs.rope, lambda part: _gathered(part.to(hidden.device), index)),
            inputs.rope,
            segment.layer,
            hidden.device,
        )

    def _reduce(self, number: int, stage: Stage, inputs: Inputs) -> Tensor:
        """The hidden states after a stage."""
        # Layers of one model may lie on several devices: the ledger follows the hidden states.
        device = inputs.hidden.device
        self.ledger = before = self.ledger.to(device)
        reduction = reduce_sequence(stage, inputs.hidden, before, self._evidence(number, inputs))
        self.ledger = reduction.ledger
        self.record.trace.append(replace(reduction.record, remarks=self.remarks))
        if reduction.index is None and reduction.ledger is before:
            return reduction.hidden
        self.moved |= reduction.index is not None or reduction.turned is not None
        if reduction.index is not None:
            still = {layer: source for layer, source in self.entered.items() if self._is_read(layer, number)}
            self.entered = {layer: source.at(reduction.index) for layer, source in still.items()}
        self.segments.append(self._segment(number, self._shift(stage, before)))
        return reduction.hidden

    def _segment(self, number: int, shift: Tensor | None) -> Segment:
        """What the layers from ``number`` on leave of the prompt for later steps."""
        ledger, length = self.ledger, self.ledger.visible.shape[1] - self.after_prompt
        size = None if ledger.size is None else ledger.size[:, :length]
        return Segment(number, ledger.visible[:, :length], ledger.origin[:, :length], shift, size)

    def _layer_source(self, number: int, inputs: Inputs) -> LayerSource:
        mask = inputs.mask if self._has_own_mask(number, inputs.mask) else None
        return LayerSource(
            self.decoder.layers[number],
            inputs.hidden,
            both(inputs.rope, lambda part: part.expand(len(inputs.hidden), -1, -1)),
            mask=None if mask is None else as_allowed(mask[:, 0]),
        )

    def _has_own_mask(self, number: int, mask: Any) -> bool:
        """Whether a layer's mask says more than which keys are visible."""
        special = self.own_masks or self._shorter_window(number) is not None
        return special and isinstance(mask, Tensor) and mask.dim() == 4

    def _shorter_window(self, number: int) -> int | None:
        """A layer's window, where the sequence is longer than it."""
        window = sliding_window(self.decoder.layers[number])
        return window if window is not None and window < self.length else None

    def _evidence(self, number: int, inputs: Inputs) -> LayerEvidence:
        """What the stage before layer ``number`` can learn."""
        hidden = inputs.hidden
        sources: dict[int, Source] = {}

        def source(back: int) -> Source:
            if back not in sources:
                sources[back] = self._source(number, back, inputs)
            return sources[back]

        device = hidden.device
        start = self.start and (self.start[0].to(device), self.start[1].to(device))
        grids = None if self.grids is None else self.grids.to(device)
        reach = min(number, looks_back(self.stages[number]))
        seeds = self.seeds.to(device)
        return LayerEvidence(self.ledger, hidden, source, seeds, self.decoder.norm, start, grids, reach)

    def _source(self, number: int, back: int, inputs: Inputs) -> LayerSource:
        """The layer ``back`` before ``number``, with what went into it; 0 is the layer itself, which has not run."""
        if back == 0:
            return self._layer_source(number, self._fitted(number, inputs))
        kept, hidden = self.entered.get(number - back), inputs.hidden
        if kept is None:
            raise ValueError(
                f"a reducer at layer {number} asks for layer {number - back}; a method that reads attention or the change"
                f" of a layer has Need.ATTENTION or Need.CHANGE among its needs, and looks_back of at least {back}"
            )
        cached = self._cached_keys(number - 1, hidden.shape[1]) if back == 1 else None
        return kept.on(hidden.device, cached)

    def _cached_keys(self, number: int, length: int) -> Tensor | None:
        """The rotated keys of a layer that has just run, where a plain cache holds them all."""
        keys = getattr(self.cache.layers[number], "keys", None) if self.cache is not None else None
        return keys if keys is not None and keys.shape[2] == length else None

    def _shift(self, stage: Stage, before: Ledger) -> Tensor | None:
        """How far compact positions have moved a row's next token: (B, 1)."""
        earlier = self.segments[-1].shift if self.segments else None
        if stage.positions != "compact":
            return earlier
        ends = [ledger.position.gather(1, ledger.last()[:, None]) for ledger in (before, self.ledger)]
        moved = ends[0] - ends[1]
        return moved if earlier is None else moved + earlier.to(moved.device)


def looks_back(stage: Stage) -> int:
    """How many layers before its own a stage needs the inputs of."""
    reads = stage.needs & {Need.ATTENTION, Need.CHANGE}
    return stage.reducer.looks_back if reads else 0


def _gathered(states: Tensor, index: Tensor) -> Tensor:
    """The rows ``index`` (B, S') of states (B or 1, S, d): (B, S', d)."""
    return states.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, states.shape[-1]))

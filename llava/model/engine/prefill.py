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
from llava.reduction.apply import reduce_sequence
from llava.reduction.evidence import LayerEvidence, LayerSource, Need, Source
from llava.reduction.evidence.attention import Rope

from .base import Decoder, Inputs, Pass, both
from .prompt import Prompt
from .state import STATE, CacheState, Segment


class Prefill(Pass):
    """A pass over a whole prompt: applies the stages of a plan, each before its layer."""

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
        self.ledger: Ledger = Ledger.start(visual, valid, position_ids, self.prompt, prompt.labels, size=size)
        in_decoder = [stage for stage in plan() if stage.site == "layer"] if visual.any() else []
        self.stages = {stage.layer: stage for stage in in_decoder}
        self.segments: list[Segment] = []
        self.grids = prompt.grids
        self.start: tuple[Ledger, Tensor] | None = None
        self.entered: dict[int, LayerSource] = {}

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """The reduced inputs where a stage stands; the same objects elsewhere."""
        if number == 0:
            inputs = self._begin(inputs)
        if number in self.stages:
            inputs = self._reduce(number, self.stages[number], inputs)
        self.record.ledgers.append(self.ledger)
        self.entered[number] = LayerSource(self.decoder.layers[number], inputs.hidden, inputs.rope)
        self.entered = {layer: source for layer, source in self.entered.items() if self._is_read(layer, number)}
        return inputs

    def _is_read(self, layer: int, number: int) -> bool:
        """Whether a stage behind layer ``number`` reads what went into ``layer``."""
        behind = ((at, stage) for at, stage in self.stages.items() if at is not None and at > number)
        return any(at - looks_back(stage) <= layer for at, stage in behind)

    def _begin(self, inputs: Inputs) -> Inputs:
        """What the first layer is given: merged tokens weigh as much as what they stand for."""
        if any(Need.EMBEDDINGS in stage.needs for stage in self.stages.values()):
            self.start = self.ledger, inputs.hidden
        if self.ledger.size is None:
            return inputs
        self.segments.append(self._segment(0, None))
        mask = self._mask(0, inputs.hidden, self.ledger.visible, self.ledger.size)
        return replace(inputs, mask=mask)

    def finish(self) -> None:
        """Leave on the cache which keys of the prompt the layers may see."""
        if self.cache is not None:
            # A name of ours on transformers' object, which lives as long as the generation does.
            setattr(self.cache, STATE, CacheState(self.prompt, self.segments))

    def _reduce(self, number: int, stage: Stage, inputs: Inputs) -> Inputs:
        # Layers of one model may lie on several devices: the ledger follows the hidden states.
        device = inputs.hidden.device
        self.ledger = before = self.ledger.to(device)
        rope = both(inputs.rope, lambda part: part.to(device))
        reduction = reduce_sequence(stage, inputs.hidden, before, self._evidence(number, inputs.hidden, rope))
        self.ledger = reduction.ledger
        self.record.trace.append(replace(reduction.record, remarks=self.remarks))
        if reduction.index is None and reduction.ledger is before:
            return Inputs(reduction.hidden, inputs.rope, inputs.mask, inputs.position_ids)
        turned = reduction.index if reduction.turned is None else reduction.turned
        if reduction.index is not None and stage.positions == "compact":
            rope = self.decoder.rotary_emb(reduction.hidden, position_ids=self.ledger.position)
        elif turned is not None:
            rope = both(rope, lambda part: _gathered(part, turned))
        if reduction.index is not None:
            index = reduction.index
            for layer, source in self.entered.items():
                states = _gathered(source.entered.to(device), index)
                self.entered[layer] = LayerSource(
                    source.layer, states, both(source.rope, lambda part: _gathered(part, index))
                )
        visible, size = self.ledger.visible, self.ledger.size
        self.segments.append(self._segment(number, self._shift(stage, before)))
        return Inputs(reduction.hidden, rope, self._mask(number, reduction.hidden, visible, size), None)

    def _segment(self, number: int, shift: Tensor | None) -> Segment:
        """What the layers from ``number`` on leave of the prompt for later steps."""
        visible, size = self.ledger.visible, self.ledger.size
        length = visible.shape[1] - self.after_prompt
        return Segment(number, visible[:, :length], shift, None if size is None else size[:, :length])

    def _evidence(self, number: int, hidden: Tensor, rope: Rope) -> LayerEvidence:
        """What the stage before layer ``number`` can learn."""
        sources: dict[int, Source] = {}

        def source(back: int) -> Source:
            if back not in sources:
                sources[back] = self._source(number, back, hidden, rope)
            return sources[back]

        device = hidden.device
        start = self.start and (self.start[0].to(device), self.start[1].to(device))
        grids = None if self.grids is None else self.grids.to(device)
        reach = min(number, looks_back(self.stages[number]))
        seeds = self.seeds.to(device)
        return LayerEvidence(self.ledger, hidden, source, seeds, self.decoder.norm, start, grids, reach)

    def _source(self, number: int, back: int, hidden: Tensor, rope: Rope) -> LayerSource:
        """The layer so many before ``number``, with what went into it; 0 is the layer itself, which has not run."""
        rope = both(rope, lambda part: part.expand(len(hidden), -1, -1))
        if back == 0:
            return LayerSource(self.decoder.layers[number], hidden, rope)
        kept = self.entered.get(number - back)
        if kept is None:
            raise ValueError(
                f"a reducer at layer {number} asks for layer {number - back}; a method that reads attention or the change"
                f" of a layer has Need.ATTENTION or Need.CHANGE among its needs, and looks_back of at least {back}"
            )
        turn = both(kept.rope, lambda part: part.to(hidden.device).expand(len(hidden), -1, -1))
        cached = self._cached_keys(number - 1, hidden.shape[1]) if back == 1 else None
        return LayerSource(
            kept.layer, kept.entered.to(hidden.device), turn, None if cached is None else cached.to(hidden.device)
        )

    def _cached_keys(self, number: int, length: int) -> Tensor | None:
        """The rotated keys of a layer that has just run, where a plain cache holds them all."""
        keys = getattr(self.cache.layers[number], "keys", None) if self.cache is not None else None
        return keys[:, :, :length] if keys is not None and keys.shape[2] >= length else None

    def _shift(self, stage: Stage, before: Ledger) -> Tensor | None:
        """How far compact positions have moved a row's next token: (B, 1)."""
        earlier = self.segments[-1].shift if self.segments else None
        if stage.positions != "compact":
            return earlier
        ends = [ledger.position.gather(1, ledger.last()[:, None]) for ledger in (before, self.ledger)]
        moved = ends[0] - ends[1]
        return moved if earlier is None else moved + earlier.to(moved.device)


def looks_back(stage: Stage) -> int:
    """Of how many layers before its own a stage needs what went into them."""
    reads = stage.needs & {Need.ATTENTION, Need.CHANGE}
    return stage.reducer.looks_back if reads else 0


def _gathered(states: Tensor, index: Tensor) -> Tensor:
    """The rows ``index`` (B, S') of states (B or 1, S, d): (B, S', d)."""
    return states.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, states.shape[-1]))

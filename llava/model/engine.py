"""One pass through any decoder: a prefill that applies the stages of a plan between layers, or a step that follows one.

The engine knows no family of models and no knob. A host (``llava.model.hosts``) makes a ``Pass``, asks it before every
layer what the layer is to be given, and reports what went in.

Shapes: B batch, P prompt, S sequence, D width, L decoder layers, d width of a head.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from llava.reduction import Ledger, Record, Stage
from llava.reduction.apply import reduce_sequence
from llava.reduction.evidence import LayerEvidence, LayerSource, Need, Source
from llava.reduction.evidence.attention import Rope

# transformers 5.24 renamed the cache in every forward, mask and output
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"

# The attribute of a cache under which its CacheState lies
STATE = "reduction"


def cache_keyword(cache: Cache | None) -> dict[str, Any]:
    """The cache as the keyword that transformers gives it."""
    return {CACHE: cache}


class Decoder(Protocol):
    """What the engine uses of a host's decoder."""

    layers: nn.ModuleList
    rotary_emb: nn.Module
    norm: nn.Module


@dataclass
class Segment:
    """Layers from ``layer`` on, as a prefill left them.

    Which cached keys may be seen (B, S'), how far positions moved (B, 1), how many tokens each key stands for (B, S').
    """

    layer: int
    visible: Tensor
    shift: Tensor | None
    size: Tensor | None = None


@dataclass
class CacheState:
    """What decoding needs to know about a reduced prefill. It lives on the cache, so generations cannot mix."""

    prompt: int
    segments: list[Segment]


@dataclass
class PassRecord:
    """What the last prefill did: a record for every stage, and the ledger with which each layer was entered."""

    trace: list[Record] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)


@dataclass
class Prompt:
    """What a caller says about the positions of a prefill.

    visual (B, P): 0 for text, i for the row's i-th image; the rows after P are drafted or recomputed answers. seeds (B,):
    a number for each sample. labels (B, S), not shifted: what is being taught. sizes (B, P): how many tokens each position
    stands for. grids (B, I, 2): height and width of the grid of each image's tokens, zero where they have none. correct:
    what a host makes of ``visual``, given which positions are no padding, and what the trace should say of it.
    """

    visual: Tensor | None = None
    seeds: Tensor | None = None
    labels: Tensor | None = None
    sizes: Tensor | None = None
    grids: Tensor | None = None
    correct: Callable[[Tensor | None, Tensor], tuple[Tensor | None, tuple[str, ...]]] = lambda visual, valid: (
        visual,
        (),
    )

    def image_map(self, valid: Tensor) -> tuple[Tensor, int, tuple[str, ...]]:
        """``visual`` as long as the sequence (B, S), how many of its rows are the prompt, and remarks for the trace.

        What follows the prompt is text.

        Raises ValueError where it does not fit.
        """
        visual, remarks = self.correct(self.visual, valid)
        if visual is None:
            return torch.zeros_like(valid, dtype=torch.long), valid.shape[1], remarks
        if visual.shape[0] != valid.shape[0] or visual.shape[1] > valid.shape[1]:
            raise ValueError(
                f"visual has shape {tuple(visual.shape)} but the sequence is {tuple(valid.shape)}; give one entry per "
                "prompt token (a prompt with an image cannot be fed in pieces: do not set prefill_chunk_size)"
            )
        return nn.functional.pad(visual.long(), (0, valid.shape[1] - visual.shape[1])), visual.shape[1], remarks

    def token_sizes(self, length: int) -> Tensor | None:
        """``sizes`` for a sequence of so many positions: what follows the prompt stands for itself."""
        if self.sizes is None or (self.sizes == 1).all():
            return None
        return nn.functional.pad(self.sizes.float(), (0, length - self.sizes.shape[1]), value=1.0)

    def sample_seeds(self, batch: int, device: torch.device) -> Tensor:
        """A number for each of ``batch`` samples; zeros where none were given."""
        if self.seeds is None:
            return torch.zeros(batch, dtype=torch.long, device=device)
        if len(self.seeds) != batch:
            raise ValueError(f"sample_seed has {len(self.seeds)} entries for a batch of {batch}; give one per row")
        return self.seeds


@dataclass
class Inputs:
    """What a layer is given: hidden states (B, S, D), cosines and sines (B or 1, S, d), mask, positions."""

    hidden: Tensor
    rope: Rope
    mask: Any
    position_ids: Tensor | None


def begin(
    decoder: Decoder,
    config: Any,
    plan: Callable[[], list[Stage]],
    hidden: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor,
    cache: Cache | None,
    prompt: Prompt,
) -> Pass:
    """The pass that these inputs are: a prefill, or a step that goes on from a cache.

    ``plan`` is called for a prompt with an image only. Raises ValueError for a prompt with an image that arrives in pieces,
    which no in-decoder stage can choose from.
    """
    past = cache.get_seq_length() if cache is not None else 0
    if not past and hidden.shape[1] > 1:
        return Prefill(decoder, config, plan, hidden, attention_mask, position_ids, cache, prompt)
    visual = prompt.visual
    if past and visual is not None and visual.shape[1] > past and visual.any():
        if any(stage.site == "layer" for stage in plan()):
            raise ValueError(
                f"the prompt of {visual.shape[1]} tokens with an image arrives in pieces ({past} are cached already);"
                " reduction needs it whole: do not set prefill_chunk_size, and begin an image with an empty cache"
            )
    return Step(decoder, config, attention_mask, position_ids, cache, past, hidden.shape[1])


class Pass:
    """One pass through the layers of a decoder, driven by its host: ``before`` every layer, ``finish`` at the end."""

    ledger: Ledger | None = None

    def __init__(self, decoder: Decoder, config: Any, cache: Cache | None):
        self.decoder, self.config, self.cache = decoder, config, cache
        self.record = PassRecord()

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """What layer ``number`` is given in place of ``inputs``."""
        raise NotImplementedError

    def finish(self) -> None:
        """Leave on the cache what later steps need."""

    def _mask(self, number: int, hidden: Tensor, visible: Tensor, size: Tensor | None = None) -> Any:
        """The attention mask of a layer whose cached and new keys may be seen where ``visible`` (B, keys) says so.

        ``size`` (B, keys): how many tokens each key stands for, whose logarithm its logits gain (proportional attention,
        arXiv 2210.09461). No positions are handed over: gaps in them would be read as the borders of packed sequences.
        Raises ValueError for sizes under an attention backend that takes no mask of numbers.
        """
        backend = self.config._attn_implementation
        if size is not None and backend not in ("sdpa", "eager"):
            raise ValueError(
                f"attn_implementation={backend!r} cannot weigh merged tokens by their sizes; use 'sdpa', or the method's"
                " option without sizes"
            )
        mask: Any = create_causal_mask(
            config=self.config if size is None else eager(self.config),
            inputs_embeds=hidden,
            attention_mask=visible,
            position_ids=None,
            layer_idx=number,
            **cache_keyword(self.cache),
        )
        return mask if size is None else mask + size.log().to(mask)[:, None, None]


class Step(Pass):
    """A pass that goes on from a cache: every layer sees of the prompt what its prefill left."""

    def __init__(
        self,
        decoder: Decoder,
        config: Any,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        cache: Cache | None,
        past: int,
        length: int,
    ):
        super().__init__(decoder, config, cache)
        state: CacheState | None = getattr(cache, STATE, None) if past else None
        self.segments = {segment.layer: segment for segment in state.segments} if state else {}
        self.position_ids, self.prompt, self.total = position_ids, state.prompt if state else past, past + length
        self.answered = attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """New rotary embedding and mask where the prefill had a stage; the same objects elsewhere."""
        segment = self.segments.get(number)
        if segment is None:
            return inputs
        hidden, rope = inputs.hidden, inputs.rope
        if segment.shift is not None:
            moved = self.position_ids.to(hidden.device) - segment.shift.to(hidden.device)
            rope = self.decoder.rotary_emb(hidden, position_ids=moved)
        if self.answered is None:
            grown = torch.ones(len(hidden), self.total - self.prompt, dtype=torch.bool, device=hidden.device)
        else:
            grown = self.answered[:, self.prompt :].bool().to(hidden.device)
        visible = torch.cat([segment.visible.to(hidden.device), grown], dim=1)
        size = segment.size
        if size is not None:
            size = nn.functional.pad(size.to(hidden.device), (0, grown.shape[1]), value=1.0)
        return Inputs(hidden, rope, self._mask(number, hidden, visible, size), None)


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
        if any(Need.EMBEDDINGS in stage.reducer.needs for stage in self.stages.values()):
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
        return LayerEvidence(self.ledger, hidden, source, self.seeds.to(device), self.decoder.norm, start, grids)

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


def both(rope: Rope, change: Callable[[Tensor], Tensor]) -> Rope:
    """Cosines and sines, each changed in the same way."""
    cos, sin = rope
    return change(cos), change(sin)


def looks_back(stage: Stage) -> int:
    """Of how many layers before its own a stage needs what went into them."""
    reads = stage.reducer.needs & {Need.ATTENTION, Need.CHANGE}
    return stage.reducer.looks_back if reads else 0


def _gathered(states: Tensor, index: Tensor) -> Tensor:
    """The rows ``index`` (B, S') of states (B or 1, S, d): (B, S', d)."""
    return states.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def eager(config: Any) -> Any:
    """A copy of a config whose attention is the eager one, which alone returns its weights."""
    copied = copy.copy(config)
    copied._attn_implementation = "eager"
    return copied


def with_config(layer: nn.Module, config: Any) -> nn.Module:
    """A decoder layer that shares weights and hooks with ``layer`` and computes its attention as ``config`` says."""
    twin = copy.copy(layer)
    attention: Any = copy.copy(layer.self_attn)
    attention.config = config
    twin._modules = {**layer._modules, "self_attn": attention}
    return twin

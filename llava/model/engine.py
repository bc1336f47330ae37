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

from llava.reduction import Ledger, Record, Stage, attention_rows
from llava.reduction.apply import reduce_sequence
from llava.reduction.evidence import LayerEvidence, Need, layer_keys

Rope = tuple[Tensor, Tensor]

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


@dataclass
class Segment:
    """Layers from ``layer`` on, as a prefill left them: which cached keys may be seen (B, S'), how far positions moved (B, 1)."""

    layer: int
    visible: Tensor
    shift: Tensor | None


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
    a number for each sample. labels (B, S), not shifted: what is being taught. correct: what a host makes of ``visual``,
    given which positions are no padding, and what the trace should say of it.
    """

    visual: Tensor | None = None
    seeds: Tensor | None = None
    labels: Tensor | None = None
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

    def _mask(self, number: int, hidden: Tensor, visible: Tensor) -> Any:
        """The attention mask of a layer whose cached and new keys may be seen where ``visible`` (B, keys) says so.

        No positions are handed over: gaps in them would be read as the borders of packed sequences.
        """
        return create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=visible,
            position_ids=None,
            layer_idx=number,
            **cache_keyword(self.cache),
        )


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
        return Inputs(hidden, rope, self._mask(number, hidden, visible), None)


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
        self.ledger: Ledger = Ledger.start(visual, valid, position_ids, self.prompt, prompt.labels)
        in_decoder = [stage for stage in plan() if stage.site == "layer"] if visual.any() else []
        self.stages = {stage.layer: stage for stage in in_decoder}
        self.segments: list[Segment] = []
        self.entered: Tensor | None = None

    def before(self, number: int, inputs: Inputs) -> Inputs:
        """The reduced inputs where a stage stands; the same objects elsewhere."""
        if number in self.stages:
            inputs = self._reduce(number, self.stages[number], inputs)
        self.record.ledgers.append(self.ledger)
        following = self.stages.get(number + 1)
        reads_attention = following is not None and Need.ATTENTION in following.reducer.needs
        self.entered = inputs.hidden if reads_attention else None
        return inputs

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
        if reduction.index is not None:
            if stage.positions == "compact":
                rope = self.decoder.rotary_emb(reduction.hidden, position_ids=self.ledger.position)
            else:
                index = reduction.index[..., None].expand(-1, -1, rope[0].shape[-1])
                rope = both(rope, lambda part: part.expand(len(index), -1, -1).gather(1, index))
        visible = self.ledger.visible
        prompt_keys = visible[:, : visible.shape[1] - self.after_prompt]
        self.segments.append(Segment(number, prompt_keys, self._shift(stage, before)))
        return Inputs(reduction.hidden, rope, self._mask(number, reduction.hidden, visible), None)

    def _evidence(self, number: int, hidden: Tensor, rope: Rope) -> LayerEvidence:
        seeds = self.seeds.to(hidden.device)
        if self.entered is None:
            return LayerEvidence(self.ledger, hidden, _no_attention, seeds)
        layer, visible = self.decoder.layers[number - 1], self.ledger.visible
        everyone = both(rope, lambda part: part.expand(len(hidden), -1, -1))
        entered = self.entered.to(hidden.device)
        keys = self._keys(number - 1, entered, everyone)

        def compute(rows: Tensor | None, columns: Tensor) -> Tensor:
            """Attention (G, H, R, S) of the layer before; images of a group may lie in any samples, several in one."""
            tensors = (entered, *everyone, visible, keys)
            if rows is not None:
                tensors = tuple(part[rows] for part in tensors)
            states, cos, sin, seen, known = tensors
            return attention_rows(layer, states, (cos, sin), columns, seen, known)

        return LayerEvidence(self.ledger, hidden, compute, seeds)

    def _keys(self, number: int, entered: Tensor, rope: Rope) -> Tensor:
        """The rotated keys of a layer: from a plain cache where it holds them all, else computed again."""
        length = self.ledger.valid.shape[1]
        keys = getattr(self.cache.layers[number], "keys", None) if self.cache is not None else None
        if keys is not None and keys.shape[2] >= length:
            return keys[:, :, :length].to(entered.device)
        return layer_keys(self.decoder.layers[number], entered, rope)

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


def _no_attention(rows: Tensor | None, columns: Tensor) -> Tensor:
    raise ValueError("a reducer asks for attention without Need.ATTENTION among its needs; add it there")


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

"""The one forward: transformers' Llama, with visual tokens reduced between its layers.

Shapes: B batch, P prompt, S sequence, D width, L decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, LlamaModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from llava.reduction import Ledger, Record, Stage, attention_rows, check_plan
from llava.reduction.evidence import LayerEvidence, Need, layer_keys
from llava.reduction.stage import Site, reduce_sequence

from .himap_configuration_llama import LlamaConfig
from .knobs import plan_from_config, span_override


@dataclass
class ReducibleOutput(BaseModelOutputWithPast):
    """Llama's output with the ledger of the rows that are left and what every stage did."""

    ledger: Ledger | None = None
    trace: list[Record] | None = None


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


class ReducibleLlamaModel(LlamaModel):
    """Llama whose visual tokens are reduced at prefill by a plan; without a plan it is transformers' Llama, bit for bit.

    ``visual`` (B, P) marks the image tokens of the prompt (0 text, i for the row's i-th image). Before layer K a stage
    shortens the sequence for K and all later layers; the cache of earlier layers keeps every row, that of later layers
    the survivors, and decoding goes on from the original positions.
    """

    config_class = LlamaConfig
    sites: ClassVar[tuple[Site, ...]] = ("layer",)  # where this model can run a stage

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.plan_override: list[Stage] | None = None
        self.last_trace: list[Record] = []
        self.last_ledgers: list[Ledger] = []

    def plan(self) -> list[Stage]:
        """The stages of the next prefill: those of ``reduced(...)`` where it is active, else ``stages()``."""
        plan = self.stages() if self.plan_override is None else self.plan_override
        check_plan(plan, len(self.layers), self.sites)
        return plan

    def stages(self) -> list[Stage]:
        """The stages that the configuration asks for, read anew each time."""
        return plan_from_config(self.config)

    @property
    def last_visual_per_layer(self) -> Tensor:
        """Visual tokens that entered each layer in the last prefill: (L, B)."""
        return torch.stack([ledger.visual_counts() for ledger in self.last_ledgers])

    @property
    def last_rows_per_layer(self) -> Tensor:
        """Rows, text and visual, that entered each layer in the last prefill: (L, B)."""
        return torch.stack([ledger.row_counts() for ledger in self.last_ledgers])

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        visual: Tensor | None = None,
        sample_seed: Tensor | None = None,
        **kwargs,
    ) -> ReducibleOutput:
        """As ``LlamaModel.forward``; ``visual`` (B, P) long and ``sample_seed`` (B,) belong to the prompt.

        The output's hidden states are those of the rows that are left, (B, S', D), padded on the left; ``ledger`` says
        where each came from. Selection needs the whole prompt at once: a prompt fed in pieces raises.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + hidden.shape[1], device=hidden.device)[None]
        rope = self.rotary_emb(hidden, position_ids=position_ids)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        run = _Run(self, hidden, attention_mask, position_ids, past_key_values, past, visual, sample_seed)
        for number, layer in enumerate(self.layers[: self.config.num_hidden_layers]):
            if run.changes_at(number):
                hidden, rope, mask = run.change(number, hidden, rope, mask)
                position_ids = None  # gaps in them would be read as packed sequences
            run.enter(number, hidden)
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=rope,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        run.finish()
        return ReducibleOutput(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values, ledger=run.ledger, trace=run.trace
        )


class _Run:
    """One pass through the layers: a prefill that applies the plan, or a decoding step that follows one."""

    def __init__(self, model, hidden, attention_mask, position_ids, cache, past, visual, sample_seed):
        self.model, self.cache, self.attention_mask, self.position_ids = model, cache, attention_mask, position_ids
        self.batch, length = hidden.shape[:2]
        self.total = past + length
        self.stages: dict[int, Stage] = {}
        self.segments: list[Segment] = []
        self.trace: list[Record] = []
        self.ledger: Ledger | None = None
        self.entered: Tensor | None = None
        state = getattr(cache, "reduction", None)
        if past or length == 1:
            if visual is not None and visual.any() and past and visual.shape[1] > past:
                raise ValueError(
                    f"the prompt of {visual.shape[1]} tokens with an image arrives in pieces ({past} are cached already);"
                    " reduction needs it whole: do not set prefill_chunk_size, and begin an image with an empty cache"
                )
            self.prompt = state.prompt if state else past
            self.segments = state.segments if state and past else []
            self.prefill = False
            return
        self.prefill = True
        self.prompt = length if visual is None else min(visual.shape[1], length)
        self.tail = length - self.prompt  # rows after the prompt: drafted or recomputed answer tokens, never reduced
        valid = self._valid(length, hidden.device)
        visual = span_override(model.config, visual, valid)
        self.ledger = Ledger.start(_fitted(visual, valid), valid, position_ids)
        self.seeds = (
            sample_seed if sample_seed is not None else torch.zeros(self.batch, dtype=torch.long, device=hidden.device)
        )
        if len(self.seeds) != self.batch:
            raise ValueError(f"sample_seed has {len(self.seeds)} entries for a batch of {self.batch}; give one per row")
        if visual is not None and visual.any():
            self.stages = {stage.layer: stage for stage in model.plan() if stage.site == "layer"}
        self.ledgers: list[Ledger] = []

    def changes_at(self, number: int) -> bool:
        return number in self.stages if self.prefill else any(segment.layer == number for segment in self.segments)

    def change(self, number: int, hidden: Tensor, rope, mask):
        """Hidden states, rotary embedding and mask for layer ``number`` and those after it."""
        if not self.prefill:
            segment = next(segment for segment in self.segments if segment.layer == number)
            if segment.shift is not None:
                rope = self.model.rotary_emb(hidden, position_ids=self.position_ids - segment.shift)
            tail = self.total - self.prompt
            grown = (
                self.attention_mask[:, self.prompt :].bool()
                if self.attention_mask is not None and self.attention_mask.dim() == 2
                else torch.ones(self.batch, tail, dtype=torch.bool, device=hidden.device)
            )
            return hidden, rope, self._mask(number, hidden, torch.cat([segment.visible, grown], dim=1))
        reduction = reduce_sequence(self.stages[number], hidden, self.ledger, self._evidence(number, hidden, rope))
        before, self.ledger = self.ledger, reduction.ledger
        self.trace.append(reduction.record)
        if reduction.index is not None:
            if self.stages[number].positions == "compact":
                rope = self.model.rotary_emb(reduction.hidden, position_ids=self.ledger.position)
            else:
                spread = reduction.index[..., None].expand(-1, -1, rope[0].shape[-1])
                rope = tuple(part.expand(self.batch, -1, -1).gather(1, spread) for part in rope)
        seen = self.ledger.visible[:, : self.ledger.visible.shape[1] - self.tail]
        self.segments.append(Segment(number, seen, self._shift(before, number)))
        return reduction.hidden, rope, self._mask(number, reduction.hidden, self.ledger.visible)

    def enter(self, number: int, hidden: Tensor) -> None:
        """Remember what goes into a layer whose attention the next stage reads."""
        if not self.prefill:
            return
        self.ledgers.append(self.ledger)
        coming = self.stages.get(number + 1)
        self.entered = hidden if coming is not None and Need.ATTENTION in coming.reducer.needs else None

    def finish(self) -> None:
        if not self.prefill:
            return
        if self.cache is not None:
            self.cache.reduction = CacheState(self.prompt, self.segments)
        self.model.last_trace, self.model.last_ledgers = self.trace, self.ledgers

    def _valid(self, length: int, device) -> Tensor:
        mask = self.attention_mask
        if mask is None or mask.dim() != 2:
            return torch.ones(self.batch, length, dtype=torch.bool, device=device)
        return mask[:, :length].bool()

    def _evidence(self, number: int, hidden: Tensor, rope) -> LayerEvidence:
        layer, visible = self.model.layers[number - 1], self.ledger.visible
        rope = [part.expand(self.batch, -1, -1) for part in rope]
        keys = self._keys(number - 1, rope) if self.entered is not None else None

        def compute(rows: Tensor | None, columns: Tensor) -> Tensor:
            given = (self.entered, *rope, visible, keys)
            if rows is not None and (
                len(rows) > 1 or self.batch > 1
            ):  # images of a group may lie in any samples, several in one
                given = tuple(part[rows] for part in given)
            entered, cos, sin, seen, known = given
            return attention_rows(layer, entered, (cos, sin), columns, seen, known)

        return LayerEvidence(self.ledger, hidden, compute, self.seeds, self.tail)

    def _keys(self, number: int, rope) -> Tensor:
        """The rotated keys of a layer: from a plain cache where it holds them all, else computed again."""
        length = self.ledger.valid.shape[1]
        keys = getattr(self.cache.layers[number], "keys", None) if self.cache is not None else None
        if keys is not None and keys.shape[2] >= length:
            return keys[:, :, :length]
        return layer_keys(self.model.layers[number], self.entered, rope)

    def _mask(self, number: int, hidden: Tensor, visible: Tensor):
        return create_causal_mask(
            config=self.model.config,
            inputs_embeds=hidden,
            attention_mask=visible,
            past_key_values=self.cache,
            position_ids=None,
            layer_idx=number,
        )

    def _shift(self, before: Ledger, number: int) -> Tensor | None:
        """How far compact positions have moved a row's next token: (B, 1)."""
        earlier = self.segments[-1].shift if self.segments else None
        if self.stages[number].positions != "compact":
            return earlier
        ends = [ledger.position.gather(1, ledger.last()[:, None]) for ledger in (before, self.ledger)]
        moved = ends[0] - ends[1]
        return moved if earlier is None else moved + earlier


def _fitted(visual: Tensor | None, valid: Tensor) -> Tensor:
    """``visual`` as long as the sequence: what follows the prompt is text."""
    if visual is None:
        return torch.zeros_like(valid, dtype=torch.long)
    if visual.shape[0] != valid.shape[0] or visual.shape[1] > valid.shape[1]:
        raise ValueError(
            f"visual has shape {tuple(visual.shape)} but the sequence is {tuple(valid.shape)}; give one entry per prompt token"
            " (a prompt with an image cannot be fed in pieces: do not set prefill_chunk_size)"
        )
    return nn.functional.pad(visual.long(), (0, valid.shape[1] - visual.shape[1]))


class ReducibleLlamaForCausalLM(LlamaForCausalLM):
    """Llama with a language-model head over ``model_class``; labels follow the ledger through any reduction."""

    config_class = LlamaConfig
    model_class: type[ReducibleLlamaModel] = ReducibleLlamaModel

    def __init__(self, config: LlamaConfig):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = self.model_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **_) -> Tensor | None:
        """Keep the 2-D mask: layers of different lengths each need their own 4-D one."""
        return attention_mask

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        visual: Tensor | None = None,
        sample_seed: Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """As ``LlamaForCausalLM.forward``; ``labels`` (B, S) are those of the unreduced sequence."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            visual=visual,
            sample_seed=sample_seed,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            if outputs.trace:  # shift on the full timeline, then take the rows that are left
                shifted = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
                kwargs["shift_labels"] = outputs.ledger.labels(shifted)
            loss = self.loss_function(
                logits=logits, labels=None if outputs.trace else labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

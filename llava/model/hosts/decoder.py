"""Decoders of our own: transformers' loop over the layers, with visual tokens reduced between them.

Two mixins, one for the decoder and one for the causal language model over it, go before a family's own classes. They
suit every family whose layers are called as Llama's are: Llama, Mistral, Qwen2, Qwen3.

Shapes: B batch, P prompt, S sequence, D width, L decoder layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from llava.constants import IGNORE_INDEX
from llava.model.engine import CACHE, Inputs, PassRecord, Prompt, begin, cache_keyword, eager, with_config
from llava.model.keywords import FORWARD, refuse_unknown
from llava.reduction import Ledger, Record, Stage, check_plan, plan_from, spelled_out
from llava.reduction.context import active_plan, recall, remember
from llava.reduction.evidence import Site
from llava.reduction.plan import Spec

# The family's own class, which comes after a mixin, is a module
_Family = nn.Module if TYPE_CHECKING else object


@dataclass
class ReducibleOutput(BaseModelOutputWithPast):
    """A decoder's output with the ledger of the rows that are left and what every stage did."""

    ledger: Ledger | None = None
    trace: list[Record] | None = None


class ReducibleDecoder(_Family):
    """A decoder whose visual tokens are reduced at prefill by a plan; without a plan it is its family's own, bit for bit.

    ``visual`` (B, P) marks the image tokens of the prompt (0 text, i for the row's i-th image). Before layer K a stage
    shortens the sequence for K and all later layers; the cache of earlier layers keeps every row, that of later layers
    the survivors, and decoding goes on from the original positions.
    """

    sites: ClassVar[tuple[Site, ...]] = ("layer",)  # where this model can run a stage

    # What the family's own class has
    config: Any
    embed_tokens: nn.Embedding
    layers: nn.ModuleList
    norm: nn.Module
    rotary_emb: nn.Module

    def plan(self, reduction: Spec = None) -> list[Stage]:
        """The stages of the next prefill, spelled out: ``reduction``, else those of ``reduced(...)``, else ``stages()``."""
        active = self.plan_override if reduction is None else plan_from(reduction)
        plan = self.stages() if active is None else active
        check_plan(plan, len(self.layers), self.sites)
        return spelled_out(plan, len(self.layers))

    def stages(self) -> list[Stage]:
        """The stages that the configuration asks for, read again each time."""
        return plan_from(getattr(self.config, "reduction", None))

    def image_map(self, visual: Tensor | None, valid: Tensor) -> tuple[Tensor | None, tuple[str, ...]]:
        """The image map (B, P) of a prompt whose positions ``valid`` (B, S) are no padding, and remarks for the trace.

        A family may correct the map.
        """
        return visual, ()

    @property
    def plan_override(self) -> list[Stage] | None:
        """The plan of the innermost ``reduced`` block of this context, None outside of any."""
        return active_plan(self)

    @property
    def last_trace(self) -> list[Record]:
        """What every stage did in the last prefill of this context (of any context where this one made none)."""
        return self._last_pass.trace

    @property
    def last_ledgers(self) -> list[Ledger]:
        """The ledger with which each layer was entered in that prefill."""
        return self._last_pass.ledgers

    @property
    def last_visual_per_layer(self) -> Tensor:
        """Visual tokens that entered each layer in the last prefill: (L, B)."""
        return torch.stack([ledger.visual_counts() for ledger in self.last_ledgers])

    @property
    def last_rows_per_layer(self) -> Tensor:
        """Rows, text and visual, that entered each layer in the last prefill: (L, B)."""
        return torch.stack([ledger.row_counts() for ledger in self.last_ledgers])

    def forget(self) -> None:
        """Forget what the last prefill did."""
        remember(self, PassRecord())

    @property
    def _last_pass(self) -> PassRecord:
        return recall(self, PassRecord())

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
        token_size: Tensor | None = None,
        grids: Tensor | None = None,
        labels: Tensor | None = None,
        reduction: Spec = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> ReducibleOutput:
        """As the family's own ``forward``; ``visual`` (B, P) long and ``sample_seed`` (B,) belong to the prompt.

        So do ``token_size`` (B, P), how many tokens a merged one stands for, and ``grids`` (B, I, 2), height and width of each
        image's tokens on the picture, zero where they have none.

        ``labels`` (B, S), not shifted, tell what is being taught: evidence ends where an answer begins, and rows that a
        label judges stay. ``reduction`` is the plan of this call. ``cache`` and ``past_key_values`` are two names of one
        argument. The output's hidden states are those of the rows that are left, (B, S', D), padded on the left;
        ``ledger`` says where each came from. Selection needs the whole prompt at once: a prompt fed in pieces raises.
        """
        refuse_unknown(f"{type(self).__name__}.forward", kwargs, FORWARD)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        cache = the_cache(cache, past_key_values)
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if not hidden.shape[1]:
            raise ValueError(f"the prompt is empty: input of shape {tuple(hidden.shape[:2])}; give at least one token")
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = torch.arange(past, past + hidden.shape[1], device=hidden.device)[None]
        with_weights = kwargs.get("output_attentions") and self.config._attn_implementation != "eager"
        config = eager(self.config) if with_weights else self.config
        rope = self.rotary_emb(hidden, position_ids=position_ids)
        mask = create_causal_mask(
            config=config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **cache_keyword(cache),
        )
        prompt = Prompt(visual, sample_seed, labels, token_size, grids, self.image_map)
        run = begin(self, config, partial(self.plan, reduction), hidden, attention_mask, position_ids, cache, prompt)
        for number, layer in enumerate(self.layers[: self.config.num_hidden_layers]):
            inputs = run.before(number, Inputs(hidden, rope, mask, position_ids))
            hidden = (with_config(layer, config) if with_weights else layer)(
                inputs.hidden,
                attention_mask=inputs.mask,
                position_embeddings=inputs.rope,
                position_ids=inputs.position_ids,
                use_cache=use_cache,
                **cache_keyword(cache),
                **kwargs,
            )
        run.finish()
        if run.ledger is not None:
            remember(self, run.record)
        return ReducibleOutput(
            last_hidden_state=self.norm(hidden),
            ledger=run.ledger,
            trace=run.record.trace,
            **cache_keyword(cache),
        )


def the_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The one cache that is given under either of its two names. Raises ValueError for two different ones."""
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("cache and past_key_values are two names of one argument; give one of them")
    return past_key_values if cache is None else cache


class ReducibleCausalLM(_Family):
    """A causal language model over a ``ReducibleDecoder``; labels follow the ledger through any reduction."""

    # What the family's own class has
    config: Any
    model: ReducibleDecoder
    lm_head: nn.Module
    loss_function: Callable[..., Tensor]

    if TYPE_CHECKING:

        def generate(self, *args: Any, **kwargs: Any) -> Any:
            """Transformers' own, whose annotated ``self`` asks for attributes that only some of its models have."""

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **_: Any) -> Tensor | None:
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
        token_size: Tensor | None = None,
        grids: Tensor | None = None,
        reduction: Spec = None,
        cache: Cache | None = None,
        skip_logits: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As the family's own ``forward``; ``labels`` (B, S) are those of the unreduced sequence, ``reduction`` a plan.

        skip_logits: with labels, only rows that have one pass the head and no logits come back. The loss is the same,
        and where most of a prompt is visual tokens and questions, few logits over a large vocabulary are left to
        compute and hold.
        """
        refuse_unknown(f"{type(self).__name__}.forward", kwargs, FORWARD)
        judged = {name: kwargs.pop(name) for name in ("num_items_in_batch", "shift_labels") if name in kwargs}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            visual=visual,
            sample_seed=sample_seed,
            token_size=token_size,
            grids=grids,
            labels=labels,
            reduction=reduction,
            cache=the_cache(cache, past_key_values),
            **kwargs,
        )
        wanted = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = outputs.last_hidden_state[:, wanted]
        logits, loss = None, None
        if labels is not None:
            logits, loss = self._judged(hidden, labels, outputs, skip_logits, **judged)
        else:
            logits = self.lm_head(hidden)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **cache_keyword(outputs[CACHE] if CACHE in outputs else None),
        )

    def _judged(
        self, hidden: Tensor, labels: Tensor, outputs: Any, skip_logits: bool, **judged: Any
    ) -> tuple[Tensor | None, Tensor]:
        """Logits of the rows in ``hidden`` (none where they are to be skipped), and their loss by the labels of the rows left."""
        if outputs.trace or "shift_labels" not in judged:
            # They are shifted on the full timeline, then those of the rows that are left are taken.
            shifted = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
            judged["shift_labels"] = outputs.ledger.labels(shifted) if outputs.trace else shifted
        if skip_logits:
            rows = judged["shift_labels"] != IGNORE_INDEX
            hidden, judged["shift_labels"] = hidden[rows][None], judged["shift_labels"][rows][None]
        logits = self.lm_head(hidden)
        loss = self.loss_function(logits=logits, labels=None, vocab_size=self.config.vocab_size, **judged)
        return None if skip_logits else logits, loss

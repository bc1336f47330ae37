"""LLaVA over any family of decoders: the prompt is spliced, read, and answered.

A family's own module is a few lines: its config under ``LlavaFamilyConfig``, its decoder with tower and projector, and its
causal language model under ``LlavaFamilyForCausalLM``.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.generation import check_generation, check_length
from llava.model.hosts.decoder import the_cache
from llava.model.language_model.reducible_family import ReducibleFamily, ReducibleFamilyCausalLM
from llava.model.language_model.reduction_knobs import ReductionKnobs
from llava.model.llava_arch import Features, Images, LlavaMetaForCausalLM, LlavaMetaModel
from llava.model.multimodal_encoder.scaled_tower import ScaledTower
from llava.model.multimodal_encoder.tower import VisionTower
from llava.reduction.plan import Spec

# transformers' own LLaVA takes a config without a vision_config for the default one and builds a random model of 7B; from
# a config with this field it refuses to.
OWN_LAYOUT = {
    "vision_config": "none here: this is LLaVA's own layout; python -m llava.model.convert writes transformers'"
}


class LlavaFamilyConfig(ReductionKnobs):
    """A config with every reduction knob; the multimodal fields `mm_*` and `image_*` are plain attributes."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, as config.json has them."""
        return super().to_dict() | OWN_LAYOUT


class LlavaFamilyModel(LlavaMetaModel, ReducibleFamily):
    """A decoder with vision tower and projector."""

    config: LlavaFamilyConfig


class LlavaFamilyForCausalLM(ReducibleFamilyCausalLM, LlavaMetaForCausalLM):
    """LLaVA: answers prompts with images, and can throw visual tokens away while it reads."""

    config: LlavaFamilyConfig
    model: LlavaFamilyModel

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # The tower stays on one device, so that its `device` is where images go.
        split = getattr(cls, "_no_split_modules", None) or ()
        cls._no_split_modules = [*dict.fromkeys((*split, VisionTower.__name__, ScaledTower.__name__))]

    def get_model(self) -> LlavaFamilyModel:
        """The decoder."""
        return self.model

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
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        raw_vision_features: Features | None = None,
        image_seeds: Sequence[int] | None = None,
        reduction: Spec = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass; with `images` (or `raw_vision_features`) the prompt is spliced first.

        Shapes as in `splice`; the batch is padded on `config.tokenizer_padding_side`. labels (B, S) of the prompt before
        splicing. reduction: the plan of this call, in place of the config's. Raises ValueError for an image token without
        an image and the reverse, and for a keyword that nobody reads.
        """
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": the_cache(cache, past_key_values),
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "visual": visual,
            "sample_seed": sample_seed,
            "token_size": token_size,
            "grids": grids,
        }
        with_pictures = images is not None or raw_vision_features is not None
        # A step of decoding has no image token; looking for one would make it wait for the device.
        with_image = False
        if input_ids is not None and (with_pictures or input_ids.shape[1] > 1 or inputs["past_key_values"] is None):
            with_image = bool((input_ids == IMAGE_TOKEN_INDEX).any())
        if inputs_embeds is None and input_ids is not None and (input_ids.shape[1] > 1 or with_image):
            if with_pictures:
                pictures = (images, image_sizes, raw_vision_features, image_seeds)
                reduction, spliced = self._spliced(inputs, pictures, reduction)
                inputs |= spliced
            elif with_image:
                raise ValueError("input_ids holds an image token (-200), but no images are given; give images=...")
        cached = inputs.pop("past_key_values")
        return super().forward(
            **inputs, cache=cached, use_cache=use_cache, logits_to_keep=logits_to_keep, reduction=reduction, **kwargs
        )

    def _spliced(
        self, inputs: dict[str, Any], pictures: tuple[Any, Any, Any, Any], reduction: Spec
    ) -> tuple[Spec, dict[str, Any]]:
        """The plan of a pass, and what the prompt in ``inputs`` becomes with its pictures."""
        images, sizes, raw, seeds = pictures
        ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        if raw is None:
            elsewhere = self._prepared_elsewhere(
                reduction,
                ids,
                inputs["position_ids"],
                mask,
                inputs["past_key_values"],
                labels,
                images,
                image_sizes=sizes,
            )
            if elsewhere is not None:
                return reduction, elsewhere
        plan = self.model.plan(reduction)
        spliced = self.splice(ids, mask, labels, images, sizes, raw, seeds, reduction=plan)
        return plan, {
            "input_ids": None,
            "inputs_embeds": spliced.inputs_embeds,
            "attention_mask": spliced.attention_mask,
            "position_ids": spliced.position_ids,
            "labels": None if labels is None else spliced.labels,
            "visual": spliced.visual,
            "sample_seed": spliced.sample_seed,
            "token_size": spliced.token_size,
            "grids": spliced.grids,
        }

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        raw_vision_features: Features | None = None,
        image_seeds: Sequence[int] | None = None,
        reduction: Spec = None,
        **kwargs: Any,
    ) -> Any:
        """Answers a batch of prompts; returns the new tokens only, (B, new), never the prompt.

        inputs (or `input_ids=`) (B, S) with IMAGE_TOKEN_INDEX for images, `attention_mask=` (B, S) for padded batches;
        images, image_sizes, raw_vision_features, image_seeds as in `splice`. reduction: the plan of this call, in place of
        the config's. kwargs go to transformers' `generate`: greedy by default, sampling, beams, streamers, stopping
        criteria. Rows are padded on the left, whatever the config says.

            model.generate(ids, images=pixels, image_sizes=[image.size], max_new_tokens=64)

        Raises ValueError for an image token without an image and the reverse, for a keyword that nobody reads, and for what
        a prompt of embeddings cannot do: an assistant model, guidance, a prompt in pieces, a cache that is not empty.
        """
        input_ids = kwargs.pop("input_ids", None)
        check_generation(kwargs, self)
        if (inputs is None) == (input_ids is None):
            raise ValueError("give the prompt once, as inputs or as input_ids (batch, length)")
        ids = input_ids if inputs is None else inputs
        mask, positions = kwargs.pop("attention_mask", None), kwargs.pop("position_ids", None)
        if raw_vision_features is None:
            elsewhere = self._prepared_elsewhere(
                reduction, ids, positions, mask, None, None, images, image_sizes=image_sizes
            )
            if elsewhere is not None and elsewhere["inputs_embeds"] is not None:
                given = {name: elsewhere[name] for name in ("position_ids", "attention_mask", "inputs_embeds")}
                return super().generate(**given, **kwargs)
        plan = self.model.plan(reduction)
        spliced = self.splice(
            ids,
            attention_mask=mask,
            images=images,
            image_sizes=image_sizes,
            raw_vision_features=raw_vision_features,
            image_seeds=image_seeds,
            padding_side="left",
            reduction=plan,
        )
        check_length(kwargs, spliced.inputs_embeds.shape[1])
        return super().generate(
            inputs_embeds=spliced.inputs_embeds,
            attention_mask=spliced.attention_mask.long(),
            visual=spliced.visual,
            sample_seed=spliced.sample_seed,
            token_size=spliced.token_size,
            grids=spliced.grids,
            reduction=plan,
            **kwargs,
        )

    def save_pretrained(self, save_directory: str | PathLike, **kwargs: Any) -> None:
        """Writes weights, tower included, config and image processor: a folder that needs nothing beside it."""
        tower = self.get_vision_tower()
        if tower is not None and tower.is_loaded and tower.image_processor is not None:
            self.config.mm_vision_config = tower.config.to_dict()
            tower.image_processor.save_pretrained(save_directory)
        super().save_pretrained(save_directory, **kwargs)

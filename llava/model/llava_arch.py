"""What makes a language model see: images are encoded, projected and spliced into the prompt.

Shapes: B rows, S positions, D the language model's width, V the tower's width, G images or crops, N features of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.model.multimodal_encoder.tower import VisionTower
from llava.model.vision.account import prompt_costs
from llava.model.vision.anyres import CropLayout, most_crops, unpad_image
from llava.model.vision.encode import VisionPath, VisionRecord
from llava.model.vision.modules import LlavaMetaModel, load_projector
from llava.model.vision.pictures import Features, Images, Picture, as_pictures, assign
from llava.model.vision.seen_image import SeenImage
from llava.model.vision.splice import Spliced, VisualTokens, cut_rows, pad_rows, splice_row
from llava.model.vision.words import asked, questions
from llava.reduction import Cost, Need, Record, Stage
from llava.reduction.context import recall, remember
from llava.reduction.evidence import mixed_seed
from llava.reduction.plan import Spec

__all__ = ["Features", "Images", "LlavaMetaForCausalLM", "LlavaMetaModel", "Spliced", "load_projector", "unpad_image"]

# What the mixin is mixed into
if TYPE_CHECKING:
    from transformers import PreTrainedModel as _LanguageModel
else:
    _LanguageModel = object


class LlavaMetaForCausalLM(ABC, _LanguageModel):
    """Turns images and prompts into what a decoder reads; mixed into a causal language model."""

    config: Any
    text_tokenizer: Any = None  # what reads the question for a plan that asks CLIP; load_pretrained_model sets it

    @abstractmethod
    def get_model(self) -> LlavaMetaModel:
        """The decoder."""

    def get_vision_tower(self) -> VisionTower | None:
        """The decoder's vision tower; None for a model without one."""
        return self.get_model().get_vision_tower()

    # ------------------------------------------------------------------------------------------------------- encode

    def encode_images(self, images: Tensor) -> Tensor:
        """images (G, 3, H, W) -> projected features (G, N, D), none of them reduced.

        A replacement of this method, on the class or on the model, is what `generate` and `forward` call; stages before the
        projector are then refused.
        """
        return self.get_model().mm_projector(self._vision_path().features(images))

    def encode_raw(self, images: Images, reduction: Spec = None) -> list[Tensor]:
        """The tower's features of each image, to be given to `generate(raw_vision_features=...)` as often as wanted.

        images: as `generate` takes them; what the plan in force does to pixels is done. Returns per image (N, V), for an
        image of several crops (crops, N, V). The draws of seeded methods follow the pixels; give
        `image_seeds=model.image_seeds(images)` along to have the same ones.
        """
        pictures = self._pictures(images)
        if not pictures:
            return []
        encoded = self._vision_path().raw(self.get_model().plan(reduction), pictures)
        return [raw[0] if picture.plain else raw for raw, picture in zip(encoded, pictures, strict=True)]

    def encode_seen(self, images: Images, reduction: Spec = None) -> list[SeenImage]:
        """What the plan in force asks of the tower about each image: its features, what is read besides, merges done.

        As `encode_raw`, for plans that read more of the tower than its features or merge tokens in it; under others it is
        the features alone. `generate(raw_vision_features=...)` takes it under any plan that asks for no more.
        """
        pictures = self._pictures(images)
        return self._vision_path().see(self.get_model().plan(reduction), pictures) if pictures else []

    def image_seeds(self, images: Images) -> list[int]:
        """A number for each image that depends on its pixels alone, from which seeded methods draw."""
        return [picture.seed for picture in self._pictures(images)]

    def visual_tokens(self, images: Images, image_sizes: Sequence[tuple[int, int]] | None = None) -> list[int]:
        """How many tokens each image is in an unreduced prompt, from shapes alone; arguments as in `splice`."""
        pictures = self._pictures(images, None, image_sizes)
        if not pictures:
            return []
        layout = self._vision_path().layout
        layout = replace(layout, newline=None if layout.newline is None else layout.newline.new_zeros(1))
        crop = self._embed.weight.new_zeros(layout.side**2, 1)
        return [
            picture.crops * len(crop) if picture.plain else len(layout.merge([crop] * picture.crops, picture.size))
            for picture in pictures
        ]

    def _pictures(self, images: Images | None, *others: Any) -> list[Picture]:
        pictures = as_pictures(images, *others)
        if pictures:
            self._tower_required()
        return pictures

    def _tower_required(self) -> VisionTower:
        tower = self.get_vision_tower()
        if tower is None:
            raise ValueError("images are given, but this model has no vision tower (its config has no mm_vision_tower)")
        if tower.vision_tower is None:
            raise ValueError(f"vision tower {tower.vision_tower_name!r} is not loaded; call load_model() first")
        return tower

    def _vision_path(self) -> VisionPath:
        tower, decoder = self._tower_required(), self.get_model()
        layout = CropLayout(
            kind=getattr(self.config, "mm_patch_merge_type", "flat"),
            side=tower.num_patches_per_side,
            resolution=tower.image_size,
            pinpoints=getattr(self.config, "image_grid_pinpoints", None),
            newline=getattr(decoder, "image_newline", None),
            most=most_crops(getattr(self.config, "image_aspect_ratio", None)),
        )
        encode = self.encode_images if self._replaced("encode_images") else None
        return VisionPath(tower, decoder.mm_projector, layout, self._embed.weight, encode)

    def _replaced(self, name: str) -> bool:
        """Whether somebody has put a method of their own in place of ours."""
        return getattr(getattr(self, name), "__func__", None) is not _OURS[name]

    # ------------------------------------------------------------------------------------------------------- splice

    def splice(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        raw_vision_features: Features | None = None,
        image_seeds: Sequence[int] | None = None,
        padding_side: str | None = None,
        reduction: Spec = None,
    ) -> Spliced:
        """Embeds prompts and puts every image where its token stands.

        input_ids (B, S) with IMAGE_TOKEN_INDEX once per image. attention_mask, labels (B, S) or None. images: (n, 3, H,
        W) or (n, crops, 3, H, W), or a list of (3, H, W) and (crops, 3, H, W); raw_vision_features instead: a list of
        (N, V) and (crops, N, V), or what `encode_seen` returns. image_sizes: (width, height) of every original image, for
        crops. image_seeds: a number for every image, for seeded methods; None takes a checksum of what is given.
        padding_side: "left" or "right"; None reads `config.tokenizer_padding_side`, default "right". reduction: the plan of
        this call.

        A row without an image token needs no image; scripts that give every such row a dummy of zeros are understood. A row
        longer than `config.tokenizer_model_max_length` is cut there, with a warning. Raises ValueError if images and
        image tokens do not match.
        """
        if input_ids.ndim != 2 or not input_ids.shape[1]:
            raise ValueError(
                f"input_ids of shape {tuple(input_ids.shape)}; give (batch, length) with at least one token, "
                "e.g. ids.unsqueeze(0)"
            )
        if getattr(self.config, "tune_mm_mlp_adapter", False) and getattr(self.config, "mm_use_im_start_end", False):
            raise NotImplementedError("tune_mm_mlp_adapter together with mm_use_im_start_end is not supported")
        device = self._embed.weight.device
        input_ids = input_ids.to(device)
        valid = (
            torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.to(device).bool()
        )
        labels = torch.full_like(input_ids, IGNORE_INDEX) if labels is None else labels.to(device)
        ids = [row[keep] for row, keep in zip(input_ids, valid, strict=True)]
        targets = [row[keep] for row, keep in zip(labels, valid, strict=True)]

        pictures = self._pictures(images, raw_vision_features, image_sizes, image_seeds)
        by_row = assign([int((row == IMAGE_TOKEN_INDEX).sum()) for row in ids], pictures)
        plan = self.get_model().plan(reduction)
        tokens = iter(self._visual_tokens(plan, by_row, ids, targets))
        rows = [
            splice_row(self._embed, row, target, [next(tokens) for _ in of_row])
            for row, target, of_row in zip(ids, targets, by_row, strict=True)
        ]
        seeds = torch.tensor([_row_seed(plan, row) for row in by_row], dtype=torch.long, device=device)
        side = padding_side or getattr(self.config, "tokenizer_padding_side", None) or "right"
        limit = getattr(self.config, "tokenizer_model_max_length", None)
        return pad_rows(cut_rows(rows, limit), side, seeds)

    def _visual_tokens(
        self, plan: list[Stage], by_row: list[list[Picture]], ids: list[Tensor], targets: list[Tensor]
    ) -> list[VisualTokens]:
        """The tokens of every picture of the rows, in order; leaves a record of what became of them."""
        record = VisionRecord([[picture.crops for picture in row] for row in by_row])
        remember(self, record)
        self.get_model().forget()  # what it did was of the prompt before
        pictures = [picture for row in by_row for picture in row]
        if not pictures:
            return []
        early = [stage for stage in plan if stage.site != "layer"]
        asks = any(stage.needs & {Need.QUESTION, Need.TEXT} for stage in early)
        question = questions(self._embed, ids, targets) if asks else None
        words = None
        if any(Need.CLIP in stage.needs for stage in early):
            words = asked(ids, targets, self.text_tokenizer, getattr(self.config, "conv_mode", None))
        seeds = [picture.seed if _draws(plan) else 0 for picture in pictures]
        return self._vision_path().tokens(plan, pictures, seeds, question, words, record)

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Images | None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Any, Tensor | None, Tensor | None]:
        """LLaVA's six values: (None, position_ids, attention_mask, past_key_values, inputs_embeds, labels).

        What was None among position_ids, attention_mask and labels stays None. Without a tower or images, and for a single
        token, everything is handed back as it came, with None for inputs_embeds. See `splice`, which also says which
        positions are visual. A replacement of this method is what `generate` and `forward` call.
        """
        if self.get_vision_tower() is None or images is None or input_ids.shape[1] == 1:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        spliced = self.splice(input_ids, attention_mask, labels, images, image_sizes)
        return (
            None,
            None if position_ids is None else spliced.position_ids,
            None if attention_mask is None else spliced.attention_mask.to(attention_mask.dtype),
            past_key_values,
            spliced.inputs_embeds,
            None if labels is None else spliced.labels,
        )

    def _prepared_elsewhere(self, reduction: Spec, *arguments: Any, **keywords: Any) -> dict[str, Any] | None:
        """What a replaced `prepare_inputs_labels_for_multimodal` makes of a prompt, None where it is ours.

        Raises ValueError for a plan: the replacement does not say which positions are visual.
        """
        if not self._replaced("prepare_inputs_labels_for_multimodal"):
            return None
        plan = self.get_model().plan(reduction)
        if plan:
            raise ValueError(
                f"the plan {'+'.join(map(str, plan))} cannot run: prepare_inputs_labels_for_multimodal of this model was "
                "replaced, and its result does not say which positions are visual; take one of the two away"
            )
        values = self.prepare_inputs_labels_for_multimodal(*arguments, **keywords)
        names = ("input_ids", "position_ids", "attention_mask", "past_key_values", "inputs_embeds", "labels")
        return dict(zip(names, values, strict=True))

    # ----------------------------------------------------------------------------------------------------- what was done

    @property
    def last_trace(self) -> list[Record]:
        """Every stage of the last prefill, in order; before the decoder the rows of a record are crops or images."""
        return [*self._last_vision.trace, *self.get_model().last_trace]

    @property
    def _last_vision(self) -> VisionRecord:
        return recall(self, VisionRecord())

    def last_cost(self) -> list[Cost]:
        """What the last prefill cost, one entry per prompt (for beams, one of them), tower and projector included."""
        tower = self.get_vision_tower()
        return prompt_costs(self.config, self.get_model(), tower, self._last_vision, self._embed.weight.element_size())

    @property
    def _embed(self) -> nn.Embedding:
        return self.get_model().embed_tokens

    def initialize_vision_tokenizer(self, model_args: Any, tokenizer: Any) -> None:
        """Adds the image tokens a config asks for to tokenizer and embeddings; new rows are drawn around the mean of the old.

        model_args: `mm_use_im_patch_token` adds `<im_patch>`, `mm_use_im_start_end` adds `<im_start>` and `<im_end>`.
        """
        names = [DEFAULT_IMAGE_PATCH_TOKEN] if model_args.mm_use_im_patch_token else []
        if model_args.mm_use_im_start_end:
            names += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN]
        if names and tokenizer.add_tokens(names, special_tokens=True):
            self.resize_token_embeddings(max(len(tokenizer), self._embed.num_embeddings))


# What the methods are before anybody replaces them
_OURS = {
    name: getattr(LlavaMetaForCausalLM, name) for name in ("encode_images", "prepare_inputs_labels_for_multimodal")
}


def _draws(plan: list[Stage]) -> bool:
    return any(Need.SEED in stage.needs for stage in plan)


def _row_seed(plan: list[Stage], pictures: list[Picture]) -> int:
    """A number for a row that depends on its pictures and their order; 0 where no stage draws."""
    seed = 0
    for picture in pictures if _draws(plan) else []:
        seed = mixed_seed(seed, picture.seed)
    return seed

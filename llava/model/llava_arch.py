"""What makes a language model see: images are encoded, projected and spliced into the prompt.

Shapes: B rows, S positions, D the language model's width, V the tower's width, G images or crops, N features of each.

    pixels -[pixels stage]-> tower -> features (G, N, V) -[features stage]-> projector -> tokens (n, D) -[prompt stage]-> splice (B, S, D)
"""

from __future__ import annotations

import logging
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import LongTensor, Tensor, nn

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.mm_utils import get_anyres_image_grid_shape
from llava.model.checkpoint import load_tensors
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.reduction import Cost, Need, Record, Stage
from llava.reduction.cost import decoder_flops, kv_bytes, linear_flops, selector_flops, tower_flops
from llava.reduction.stage import Site, reduce_images, reduce_pixels

logger = logging.getLogger(__name__)

Images = Tensor | Sequence[Tensor]


class LlavaMetaModel:
    """Adds the vision tower, the projector and, for `*unpad` merging, the learned end of a line to a decoder.

    They are built if the config names a tower. The tower's weights are read by `get_vision_tower().load_model()`, or with
    the rest of the checkpoint if the config has `mm_vision_config`.
    """

    sites = get_args(Site)

    def __init__(self, config: Any):
        super().__init__(config)
        if getattr(config, "mm_vision_tower", None):
            self.vision_tower = build_vision_tower(config, delay_load=True)
            self._build_projection()

    def get_vision_tower(self) -> CLIPVisionTower | None:
        """The tower; None for a model without one."""
        tower = getattr(self, "vision_tower", None)
        return tower[0] if isinstance(tower, list) else tower

    def initialize_vision_modules(self, model_args: Any, fsdp: Any = None) -> None:
        """Gives a language model its tower and projector, as training starts.

        model_args: `vision_tower`, `mm_vision_select_layer`, `mm_vision_select_feature`, and optionally
        `mm_projector_type`, `mm_patch_merge_type`, `pretrain_mm_mlp_adapter` (a projector file to start from). fsdp:
        accepted for LLaVA's sake. Raises what `CLIPVisionTower.load_model` and `load_projector` raise.
        """
        config = self.config
        config.mm_vision_tower = model_args.vision_tower
        config.mm_vision_select_layer = model_args.mm_vision_select_layer
        config.mm_vision_select_feature = model_args.mm_vision_select_feature
        config.mm_projector_type = getattr(model_args, "mm_projector_type", "linear")
        config.mm_patch_merge_type = getattr(model_args, "mm_patch_merge_type", "flat")
        config.use_mm_proj = True
        if self.get_vision_tower() is None:
            self.vision_tower = build_vision_tower(config, delay_load=True)
        if not self.get_vision_tower().is_loaded:
            self.get_vision_tower().load_model(dtype=self.dtype, device=self.device)
        config.mm_hidden_size = self.get_vision_tower().hidden_size
        if getattr(self, "mm_projector", None) is None:
            self._build_projection()
            self.mm_projector.to(device=self.device, dtype=self.dtype)
        self.mm_projector.requires_grad_(True)
        if getattr(model_args, "pretrain_mm_mlp_adapter", None):
            load_projector(self, Path(model_args.pretrain_mm_mlp_adapter))

    def _build_projection(self) -> None:
        self.mm_projector = build_vision_projector(self.config)
        if "unpad" in getattr(self.config, "mm_patch_merge_type", "flat"):
            width = self.config.hidden_size
            self.image_newline = nn.Parameter(torch.randn(width, dtype=self.dtype) / math.sqrt(width))


def load_projector(model: nn.Module, path: Path) -> None:
    """Fills projector and `image_newline` of a decoder from a file of `model.mm_projector.*` tensors.

    Raises ValueError naming the tensors that are missing, and those that belong to neither.
    """
    prefix = "model."
    own = {f"{prefix}{name}" for name in model.state_dict() if name.startswith(("mm_projector.", "image_newline"))}
    tensors = load_tensors(path)
    missing, unexpected = sorted(own - set(tensors)), sorted(set(tensors) - own)
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit the projector: missing {missing or 'nothing'}, not understood {unexpected or 'nothing'}; "
            "its names must be model.mm_projector.<layer>.<weight|bias>"
        )
    model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, strict=False)


@dataclass
class Spliced:
    """A batch of prompts in which every image token has become the image's features.

    inputs_embeds (B, S, D). attention_mask (B, S) bool, False for padding. position_ids (B, S), 0 for padding. labels
    (B, S), IGNORE_INDEX for images and padding; all of it if no labels were given. visual (B, S): 0 for text and
    padding, i for what belongs to the row's i-th image. sample_seed (B,): a number that depends on the row's pixels only.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: LongTensor
    labels: LongTensor
    visual: LongTensor
    sample_seed: LongTensor


@dataclass
class _Picture:
    """One image given to the model: pixels (crops, 3, H, W) or raw features (crops, N, V)."""

    pixels: Tensor | None
    raw: Tensor | None
    plain: bool  # one view of the image, nothing to merge
    size: tuple[int, int] | None
    given_seed: int | None = None

    @cached_property
    def seed(self) -> int:
        """A number that depends on the image alone: as given, or a checksum of its data."""
        return _crc(self.data) if self.given_seed is None else self.given_seed

    @property
    def data(self) -> Tensor:
        return self.raw if self.pixels is None else self.pixels

    @property
    def crops(self) -> int:
        return len(self.data)

    @property
    def is_dummy(self) -> bool:
        """All zeros: what training scripts give a row without an image."""
        return not self.data.any()


@dataclass
class _Look:
    """What became of the images of the last batch: crops of each row, records of the stages, tokens projected per crop."""

    crops: list[int] = field(default_factory=list)
    features: list[Record] = field(default_factory=list)
    prompt: list[Record] = field(default_factory=list)
    projected: list[int] = field(default_factory=list)
    patches: int = 0  # of a crop, as the tower saw it

    @property
    def trace(self) -> list[Record]:
        return self.features + self.prompt


class LlavaMetaForCausalLM(ABC):
    """Turns images and prompts into what a decoder reads; mixed into a causal language model."""

    _last_look = _Look()

    @abstractmethod
    def get_model(self) -> nn.Module:
        """The decoder, a LlavaMetaModel."""

    def get_vision_tower(self) -> CLIPVisionTower | None:
        """The decoder's vision tower; None for a model without one."""
        return self.get_model().get_vision_tower()

    # ------------------------------------------------------------------------------------------------------- encode

    def encode_images(self, images: Tensor) -> Tensor:
        """images (G, 3, H, W) -> projected features (G, N, D), none of them reduced."""
        return self.get_model().mm_projector(self._tower_features(images))

    def encode_raw(self, images: Images) -> list[Tensor]:
        """The tower's features of each image, to be given to `generate(raw_vision_features=...)` as often as wanted.

        images: as `generate` takes them; what the plan in force does to pixels is done. Returns per image (N, V), for an image of several crops (crops, N, V). The draws
        of seeded methods follow the pixels; give `image_seeds=model.image_seeds(images)` along to have the same ones.
        """
        pictures = self._pictures(images)
        found = zip(self._raw(self.get_model().plan(), pictures), pictures, strict=True)
        return [raw[0] if picture.plain else raw for raw, picture in found]

    def image_seeds(self, images: Images) -> list[int]:
        """A number for each image that depends on its pixels alone, from which seeded methods draw."""
        return [picture.seed for picture in self._pictures(images)]

    def _tower_features(self, images: Tensor, resized: bool = False) -> Tensor:
        """images (G, 3, H, W) -> (G, N, V) in the language model's dtype, whatever dtype the pixels have."""
        like = self._embed.weight
        return self._tower_required()(images.to(like.dtype), resized).to(like.device)

    def _raw(self, plan: list[Stage], pictures: Sequence[_Picture]) -> list[Tensor]:
        """(crops, N, V) of every picture; those still given as pixels pass the tower in one call."""
        fresh = [picture.pixels for picture in pictures if picture.raw is None]
        encoded: Iterator[Tensor] = iter(())
        if fresh:
            tower = self._tower_required()
            pixels = torch.cat([crop.to(tower.device) for crop in fresh])
            shrunk = reduce_pixels(plan, pixels, tower.config.patch_size)
            features = self._tower_features(shrunk, resized=shrunk is not pixels)
            encoded = iter(features.split([len(crop) for crop in fresh]))
        return [next(encoded) if picture.raw is None else picture.raw for picture in pictures]

    def _questions(self, ids: Sequence[LongTensor], targets: Sequence[LongTensor]) -> tuple[Tensor, Tensor] | None:
        """For every image of every row the embeddings (G, T, D) of the words asked about it, and which are real (G, T).

        These are the words after the image and, in training, before the first that is to be learned.
        """
        found = []
        for row, target in zip(ids, targets, strict=True):
            asked = (target == IGNORE_INDEX).long().cumprod(0).bool() & (row != IMAGE_TOKEN_INDEX)
            for place in (row == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist():
                found.append(self._embed(row[place:][asked[place:]]).detach())
        if not found:
            return None
        real = [torch.ones(len(words), dtype=torch.bool, device=words.device) for words in found]
        padded = (nn.utils.rnn.pad_sequence(parts, batch_first=True) for parts in (found, real))
        return tuple(padded)

    def _visual_tokens(
        self,
        plan: list[Stage],
        seeded: bool,
        pictures: Sequence[_Picture],
        question: tuple[Tensor, Tensor] | None = None,
    ) -> list[Tensor]:
        """The tokens (n, D) that stand for each picture in the prompt."""
        if not pictures:
            return []
        like = self._embed.weight
        raw = [features.to(like.device, like.dtype) for features in self._raw(plan, pictures)]
        shapes = {tuple(features.shape[1:]) for features in raw}
        if len(shapes) > 1:
            raise ValueError(
                f"raw_vision_features disagree in shape: {sorted(shapes)}; give every image's as encode_raw does"
            )
        own = [picture.seed if seeded else 0 for picture in pictures]
        seeds = torch.tensor(own, device=like.device)
        crop_seeds = [seed + crop for seed, picture in zip(own, pictures) for crop in range(picture.crops)]
        look = self._last_look
        look.patches = len(raw[0][0])
        tower = self._tower_required().config
        pixels = like.new_empty(1, 1, tower.image_size, tower.image_size)
        shrunk = reduce_pixels(plan, pixels, tower.patch_size)
        if shrunk is not pixels and (wanted := (shrunk.shape[-1] // tower.patch_size) ** 2) != look.patches:
            raise ValueError(
                f"raw_vision_features of {look.patches} patches, but the plan shrinks pictures to {wanted}; encode them "
                "under the plan: with reduced(model, plan): model.encode_raw(images)"
            )
        side = math.isqrt(look.patches)
        crop_question = question
        if question is not None:
            owner = [number for number, picture in enumerate(pictures) for _ in range(picture.crops)]
            crop_question = question[0][owner], question[1][owner]
        crops, look.features = reduce_images(
            plan, "features", list(torch.cat(raw)), (side, side), seeds.new_tensor(crop_seeds), crop_question
        )
        look.projected = [len(crop) for crop in crops]
        projected = iter(self.get_model().mm_projector(torch.cat(crops)).split(look.projected))
        merged = [self._merge([next(projected) for _ in range(picture.crops)], picture) for picture in pictures]
        tokens, look.prompt = reduce_images(plan, "prompt", merged, (side, side), seeds, question)
        return tokens

    # ----------------------------------------------------------------------------------------------------- what was done

    @property
    def last_trace(self) -> list[Record]:
        """Every stage of the last prefill, in order; before the decoder the rows of a record are crops or images."""
        return [*self._last_look.trace, *self.get_model().last_trace]

    def last_cost(self) -> list[Cost]:
        """What the last prefill cost, one entry a prompt (of beams, one of them), tower and projector included."""
        config, decoder, look = self.config, self.get_model(), self._last_look
        visual, entered = decoder.last_visual_per_layer.T.tolist(), decoder.last_rows_per_layer.T.tolist()
        beams = len(entered) // max(len(look.crops), 1)
        costs, first = [], 0
        for row, count in enumerate(look.crops):
            crops, first = range(first, first + count), first + count
            rows = entered[row * beams]
            costs.append(
                Cost(
                    visual_per_layer=visual[row * beams],
                    rows_per_layer=rows,
                    tower_flops=tower_flops(self.get_vision_tower().config, count, look.patches) if count else 0.0,
                    projector_flops=linear_flops(decoder.mm_projector, sum(look.projected[crop] for crop in crops))
                    if count
                    else 0.0,
                    selector_flops=selector_flops(decoder.last_trace, [row * beams], config.hidden_size)
                    + selector_flops(look.features, crops, getattr(config, "mm_hidden_size", 0)),
                    llm_flops=decoder_flops(config, rows),
                    kv_bytes=kv_bytes(config, rows, self._embed.weight.element_size()),
                )
            )
        return costs

    def _merge(self, crops: list[Tensor], picture: _Picture) -> Tensor:
        """The crops (n, D) of one picture laid out as one (n', D), as `config.mm_patch_merge_type` says.

        "flat" one after another; "spatial" the whole image, then all crops as one grid, line by line; "spatial_unpad"
        that grid without the lines that are padding, each line ended by `image_newline`.
        """
        kind = getattr(self.config, "mm_patch_merge_type", "flat")
        if picture.plain or kind == "flat":
            return torch.cat(crops)
        if kind not in ("spatial", "spatial_unpad"):
            raise ValueError(f"mm_patch_merge_type={kind!r} is unknown; give 'flat', 'spatial' or 'spatial_unpad'")
        newline = self.get_model().image_newline.to(crops[0]) if kind == "spatial_unpad" else None
        if len(crops) == 1:
            return crops[0] if newline is None else torch.cat((crops[0], newline[None]))
        return torch.cat((crops[0], self._crop_grid(crops[1:], picture, newline)))

    def _crop_grid(self, crops: list[Tensor], picture: _Picture, newline: Tensor | None) -> Tensor:
        """Crops (side * side, D) of one picture read as one grid, line by line: (n, D)."""
        tower = self._tower_required()
        side = tower.num_patches_per_side
        if picture.size is None:
            raise ValueError("image_sizes is None; an image of several crops needs its (width, height) there")
        across, down = get_anyres_image_grid_shape(
            picture.size, self.config.image_grid_pinpoints, tower.config.image_size
        )
        if across * down != len(crops):
            raise ValueError(
                f"an image of size {tuple(picture.size)} has {across} x {down} crops beside its whole view, "
                f"but {len(crops)} are given; image_sizes and images must belong together"
            )
        if any(len(crop) != side * side for crop in crops):
            raise ValueError(
                f"crops of {len(crops[0])} features are no {side} x {side} grid: a reduction of features cannot be combined "
                "with mm_patch_merge_type 'spatial'; reduce at the prompt or in a layer, or merge 'flat'"
            )
        grid = torch.stack(crops).unflatten(1, (side, side)).unflatten(0, (down, across))
        grid = grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (down * side, across * side, D)
        if newline is not None:
            grid = unpad_image(grid, picture.size)
            grid = torch.cat((grid, newline.expand(len(grid), 1, -1)), dim=1)
        return grid.flatten(0, 1)

    # ------------------------------------------------------------------------------------------------------- splice

    def splice(
        self,
        input_ids: LongTensor,
        attention_mask: Tensor | None = None,
        labels: LongTensor | None = None,
        images: Images | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        raw_vision_features: Sequence[Tensor] | None = None,
        image_seeds: Sequence[int] | None = None,
        padding_side: str | None = None,
    ) -> Spliced:
        """Embeds prompts and puts every image where its token stands.

        input_ids (B, S) with IMAGE_TOKEN_INDEX once an image. attention_mask, labels (B, S) or None. images: (n, 3, H, W)
        or (n, crops, 3, H, W), or a list of (3, H, W) and (crops, 3, H, W); raw_vision_features instead: a list of
        (N, V) and (crops, N, V). image_sizes: (width, height) of every original image, for crops. image_seeds: a number of
        every image for seeded methods; None is a checksum of what is given. padding_side:
        "left" or "right"; None reads `config.tokenizer_padding_side`, default "right".

        A row without an image token needs no image; scripts that give every such row a dummy are understood. A row
        longer than `config.tokenizer_model_max_length` is cut there, with a warning. Raises ValueError if images and
        image tokens do not fit.
        """
        if input_ids.ndim != 2:
            raise ValueError(
                f"input_ids of shape {tuple(input_ids.shape)}; give (batch, length), e.g. ids.unsqueeze(0)"
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
        by_row = _assign([int((row == IMAGE_TOKEN_INDEX).sum()) for row in ids], pictures)
        self._last_look = _Look([sum(picture.crops for picture in row) for row in by_row])
        plan = self.get_model().plan()
        seeded = any(Need.SEED in stage.reducer.needs for stage in plan)
        question = None
        if any(Need.QUESTION in stage.reducer.needs for stage in plan):
            question = self._questions(ids, targets)
        tokens = iter(self._visual_tokens(plan, seeded, [picture for row in by_row for picture in row], question))
        rows = [
            self._splice_row(row, target, [next(tokens) for _ in of_row])
            for row, target, of_row in zip(ids, targets, by_row, strict=True)
        ]
        seeds = [sum(picture.seed for picture in row) if seeded else 0 for row in by_row]
        side = padding_side or getattr(self.config, "tokenizer_padding_side", None) or "right"
        return _pad(self._cut(rows), side, torch.tensor(seeds, dtype=torch.long, device=device))

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: LongTensor | None,
        position_ids: LongTensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: LongTensor | None,
        images: Images | None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> tuple[LongTensor | None, LongTensor | None, Tensor | None, Any, Tensor | None, LongTensor | None]:
        """LLaVA's six values: (None, position_ids, attention_mask, past_key_values, inputs_embeds, labels).

        What was None among position_ids, attention_mask and labels stays None. Without a tower or images, and for a single
        token, everything is handed back as it came, with None for inputs_embeds. See `splice`, which also says which
        positions are visual.
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

    def _splice_row(self, ids: LongTensor, target: LongTensor, images: list[Tensor]) -> _Row:
        """One prompt (S,) and the tokens (n, D) of its images, in order."""
        is_image = ids == IMAGE_TOKEN_INDEX
        text = self._embed(ids.masked_fill(is_image, 0))
        cuts = is_image.nonzero().flatten().tolist()
        embeds, visual, labels = [], [], []
        start = 0
        for number, (cut, image) in enumerate(zip(cuts, images, strict=True), start=1):
            embeds += [text[start:cut], image.to(text)]
            labels += [target[start:cut], target.new_full((len(image),), IGNORE_INDEX)]
            visual += [ids.new_zeros(cut - start), ids.new_full((len(image),), number)]
            start = cut + 1
        embeds.append(text[start:])
        labels.append(target[start:])
        visual.append(ids.new_zeros(len(ids) - start))
        return _Row(torch.cat(embeds), torch.cat(labels), torch.cat(visual))

    def _cut(self, rows: list[_Row]) -> list[_Row]:
        limit = getattr(self.config, "tokenizer_model_max_length", None)
        longest = max(len(row.embeds) for row in rows)
        if limit is None or longest <= limit:
            return rows
        logger.warning("a prompt of %d positions is cut to tokenizer_model_max_length=%d", longest, limit)
        return [_Row(row.embeds[:limit], row.labels[:limit], row.visual[:limit]) for row in rows]

    def _pictures(
        self,
        images: Images | None,
        raw: Sequence[Tensor] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[_Picture]:
        """Whatever form the images were given in, as one list."""
        if images is not None and raw is not None:
            raise ValueError("both images and raw_vision_features are given; give one of them")
        given = images if raw is None else raw
        if given is None:
            return []
        self._tower_required()
        if sizes is not None and len(sizes) != len(given):
            raise ValueError(f"{len(sizes)} image_sizes for {len(given)} images; give (width, height) of every image")
        if seeds is not None and len(seeds) != len(given):
            raise ValueError(f"{len(seeds)} image_seeds for {len(given)} images; give one of every image")
        name, one_crop = ("images", 3) if raw is None else ("raw_vision_features", 2)
        # A stack (n, 3, H, W) is one view each; in a list such an image may still be merged.
        stacked = isinstance(given, Tensor) and given.ndim == one_crop + 1
        pictures = []
        for i, data in enumerate(given):
            if data.ndim not in (one_crop, one_crop + 1):
                raise ValueError(
                    f"{name}[{i}] has shape {tuple(data.shape)}, which is neither one view nor a stack of crops"
                )
            plain = stacked or (raw is not None and data.ndim == one_crop)
            data = data.unsqueeze(0) if data.ndim == one_crop else data
            size = None if sizes is None else tuple(int(length) for length in sizes[i])
            pixels, raw_data = (data, None) if raw is None else (None, data)
            pictures.append(_Picture(pixels, raw_data, plain, size, None if seeds is None else seeds[i]))
        return pictures

    def _tower_required(self) -> CLIPVisionTower:
        tower = self.get_vision_tower()
        if tower is None:
            raise ValueError("images are given, but this model has no vision tower (its config has no mm_vision_tower)")
        return tower

    @property
    def _embed(self) -> nn.Embedding:
        return self.get_model().embed_tokens

    def initialize_vision_tokenizer(self, model_args: Any, tokenizer: Any) -> None:
        """Adds the image tokens a config asks for to tokenizer and embeddings; new rows start at the mean of the old.

        model_args: `mm_use_im_patch_token` adds `<im_patch>`, `mm_use_im_start_end` adds `<im_start>` and `<im_end>`.
        """
        names = [DEFAULT_IMAGE_PATCH_TOKEN] if model_args.mm_use_im_patch_token else []
        if model_args.mm_use_im_start_end:
            names += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN]
        if names and tokenizer.add_tokens(names, special_tokens=True):
            self.resize_token_embeddings(max(len(tokenizer), self._embed.num_embeddings))


@dataclass
class _Row:
    """One spliced prompt: embeds (S, D), labels (S,), visual (S,)."""

    embeds: Tensor
    labels: LongTensor
    visual: LongTensor


def unpad_image(grid: Tensor, original_size: tuple[int, int]) -> Tensor:
    """Takes the lines or columns off a feature grid that show only padding.

    grid (height, width, D) of an image that was fitted into it and centred; original_size: (width, height) before.
    """
    height, width = grid.shape[:2]
    across, down = width / original_size[0], height / original_size[1]
    if across < down:
        margin = (height - int(original_size[1] * across)) // 2
        return grid[margin : height - margin]
    margin = (width - int(original_size[0] * down)) // 2
    return grid[:, margin : width - margin]


def _assign(wanted: list[int], pictures: list[_Picture]) -> list[list[_Picture]]:
    """Which pictures belong to each row, given how many image tokens each has."""
    total, textual = sum(wanted), sum(count == 0 for count in wanted)
    supply = iter(pictures)
    if len(pictures) == total:
        return [[next(supply) for _ in range(count)] for count in wanted]
    if len(pictures) == total + textual:
        # LLaVA's own convention: a text-only row brings a dummy. Of a batch with no image token at all only
        # zeros are believed to be dummies, for an image forgotten in the prompt looks the same.
        rows = [[next(supply) for _ in range(max(count, 1))] for count in wanted]
        if total or all(picture.is_dummy for picture in pictures):
            return [row if count else [] for row, count in zip(rows, wanted, strict=True)]
    raise ValueError(
        f"{total} image tokens in input_ids (per row {wanted}) but {len(pictures)} images; give every <image> of a prompt "
        "exactly one image and every image one <image>"
    )


def _pad(rows: list[_Row], side: str, sample_seed: LongTensor) -> Spliced:
    """Rows of any length as one batch, padded with zeros on `side`."""
    if side not in ("left", "right"):
        raise ValueError(f"padding side {side!r} is unknown; give 'left' or 'right'")
    first = rows[0].embeds
    lengths = [len(row.embeds) for row in rows]
    longest = max(lengths)
    batch = Spliced(
        inputs_embeds=first.new_zeros(len(rows), longest, first.shape[-1]),
        attention_mask=torch.zeros(len(rows), longest, dtype=torch.bool, device=first.device),
        position_ids=sample_seed.new_zeros(len(rows), longest),
        labels=sample_seed.new_full((len(rows), longest), IGNORE_INDEX),
        visual=sample_seed.new_zeros(len(rows), longest),
        sample_seed=sample_seed,
    )
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        place = slice(longest - length, longest) if side == "left" else slice(0, length)
        batch.inputs_embeds[i, place] = row.embeds
        batch.attention_mask[i, place] = True
        batch.position_ids[i, place] = torch.arange(length, device=first.device)
        batch.labels[i, place] = row.labels
        batch.visual[i, place] = row.visual
    return batch


def _crc(tensor: Tensor) -> int:
    """A checksum of a tensor's bytes: equal data, equal number, on every machine and in every batch."""
    return zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())

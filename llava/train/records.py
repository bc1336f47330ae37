"""The records of a training, checked against the model that is to read them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import ANYRES, Size, process_images
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM

from .arguments import DataArguments, ModelArguments, TrainingArguments
from .data import ConversationDataset

logger = logging.getLogger(__name__)


def load_records(
    model: LlavaFamilyForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: Any,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
) -> ConversationDataset:
    """The checked records, as the model is to read them; its config records how pictures and prompts are prepared."""
    config = model.config
    config.image_aspect_ratio = data_args.image_aspect_ratio or getattr(config, "image_aspect_ratio", "square")
    if config.image_aspect_ratio.startswith(ANYRES) and not getattr(config, "image_grid_pinpoints", None):
        raise ValueError("image_aspect_ratio=anyres needs a model whose config has image_grid_pinpoints, as LLaVA-1.6")
    if args.model_max_length > config.max_position_embeddings:
        raise ValueError(
            f"model_max_length={args.model_max_length} exceeds the {config.max_position_embeddings} positions of the model"
        )
    config.tokenizer_padding_side = "right"
    tokenizer.model_max_length = args.model_max_length
    config.tokenizer_model_max_length = None  # pictures are measured uncut
    positions = image_positions(model, image_processor)
    config.tokenizer_model_max_length = args.model_max_length
    dataset = ConversationDataset(
        data_args.data_path,
        data_args.image_folder,
        model_args.version,
        tokenizer,
        image_processor,
        config,
        args.model_max_length,
        positions,
        images_required=model_args.tune_mm_mlp_adapter,
        cut_long=data_args.cut_long_records,
        skip_bad=data_args.skip_bad_records,
        lazy=data_args.lazy_preprocess,
        split_turns=data_args.split_turns,
    )
    if data_args.is_multimodal is False and any(dataset.has_image):
        raise ValueError(f"is_multimodal=False, but {data_args.data_path} has pictures; leave the flag out")
    logger.info("%d records, %d with pictures", len(dataset), sum(dataset.has_image))
    return dataset


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills shorter rows of a batch: the tokenizer's padding, or 0, which the mask hides."""
    padding = tokenizer.pad_token_id
    return padding if isinstance(padding, int) else 0


def image_positions(model: LlavaFamilyForCausalLM, image_processor: Any) -> int | Callable[[Size], int]:
    """How many positions a picture takes under the plan in force; for "anyres" a function of its (width, height)."""
    measured: dict[Size, int] = {}

    def positions(size: Size) -> int:
        if size not in measured:
            picture = Image.new("RGB", size, (90, 120, 150))
            pixels = process_images([picture], image_processor, model.config)
            with torch.no_grad():
                spliced = model.splice(torch.LongTensor([[IMAGE_TOKEN_INDEX]]), images=pixels, image_sizes=[size])
            measured[size] = int(spliced.attention_mask.sum())
        return measured[size]

    return positions if model.config.image_aspect_ratio.startswith(ANYRES) else positions((336, 336))

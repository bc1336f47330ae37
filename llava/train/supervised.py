"""LLaVA's names for training data, for scripts that build their own training from them; each is ours underneath.

Shapes: B records, S ids of the longest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from llava import conversation
from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN, IGNORE_INDEX
from llava.conversation import SeparatorStyle

from .conversations import encode_record, with_image_first
from .data import Collator, ConversationDataset, Item
from .records import padding_id

Source = Sequence[dict[str, str]]  # the turns of a record, each with "from" and "value"
MARKED = f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}"
TAGGED = f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>"


def preprocess_multimodal(sources: Sequence[Source], data_args: Any) -> Sequence[Source]:
    """The dialogues with the image of every turn on a line of its own in front, changed in place as LLaVA does.

    data_args: `is_multimodal` False leaves them as they are; `mm_use_im_start_end` puts marks around the image.
    """
    if not getattr(data_args, "is_multimodal", True):
        return sources
    marks = bool(getattr(data_args, "mm_use_im_start_end", False))
    for turn in (turn for source in sources for turn in source):
        if DEFAULT_IMAGE_TOKEN in turn["value"]:
            turn["value"] = with_image_first(turn["value"], conversation.default_conversation, marks)
    return sources


def preprocess(
    sources: Sequence[Source], tokenizer: PreTrainedTokenizerBase, has_image: bool = False
) -> dict[str, Tensor]:
    """`input_ids` and `labels` (B, S) of dialogues in the template `llava.conversation.default_conversation`.

    Shorter rows are padded on the right. Raises ValueError naming the dialogue for what cannot be trained on, and for an image
    token where has_image is False. Equal to LLaVA's for v1 and plain, except that LLaVA ignores a dialogue whose tokens it
    counts wrong, and one that begins with an answer loses that answer.
    """
    rows = []
    for number, source in enumerate(sources, start=1):
        texts = [turn.get("value", "") for turn in source]
        if not has_image and any(DEFAULT_IMAGE_TOKEN in text for text in texts):
            raise ValueError(f"dialogue {number} has an {DEFAULT_IMAGE_TOKEN}; give has_image=True")
        marks = any(MARKED in text for text in texts)
        plain = [{**turn, "value": _unmarked(text)} for turn, text in zip(source, texts)]
        try:
            rows.append(encode_record({"conversations": plain}, conversation.default_conversation, tokenizer, marks))
        except ValueError as error:
            raise ValueError(f"dialogue {number} {error}") from error
    ids, labels = zip(*rows)
    return {
        "input_ids": pad_sequence(list(ids), batch_first=True, padding_value=padding_id(tokenizer)),
        "labels": pad_sequence(list(labels), batch_first=True, padding_value=IGNORE_INDEX),
    }


def _unmarked(text: str) -> str:
    """A text without the marks around its images, which are added when it is encoded."""
    return text.replace(MARKED, DEFAULT_IMAGE_TOKEN).replace(TAGGED, DEFAULT_IMAGE_TOKEN)


def _in_style(style: SeparatorStyle, has_image: bool = False) -> Callable[..., dict[str, Tensor]]:
    """`preprocess` that refuses a default template of another style."""

    def preprocess_style(
        sources: Sequence[Source], tokenizer: PreTrainedTokenizerBase, has_image: bool = has_image
    ) -> dict[str, Tensor]:
        own = conversation.default_conversation.sep_style
        if own is not style:
            raise ValueError(
                f"llava.conversation.default_conversation is of style {own.name}, not {style.name}; set it to one of "
                "llava.conversation.conv_templates, or call preprocess"
            )
        return preprocess(sources, tokenizer, has_image)

    return preprocess_style


preprocess_v1 = _in_style(SeparatorStyle.TWO)
preprocess_llama_2 = _in_style(SeparatorStyle.LLAMA_2)
preprocess_mpt = _in_style(SeparatorStyle.MPT)
preprocess_plain = _in_style(SeparatorStyle.PLAIN, has_image=True)


class LazySupervisedDataset(ConversationDataset):
    """The records of a file as `ConversationDataset` reads them, in the template `llava.conversation.default_conversation`.

    data_args: `image_folder`, `image_processor`, and optionally `image_aspect_ratio`, `image_grid_pinpoints` and
    `mm_use_im_start_end`. A record longer than `tokenizer.model_max_length` is cut. An item with one picture also has it as
    `image`, (3, H, W) or (crops, 3, H, W). Raises ValueError naming every bad record now, where LLaVA's ends the
    training when the record's turn comes; a record without a picture has none, where LLaVA's adds a black one.
    """

    def __init__(self, data_path: str, tokenizer: PreTrainedTokenizerBase, data_args: Any):
        self.data_args = data_args
        options = {name: getattr(data_args, name, None) for name in ("image_aspect_ratio", "image_grid_pinpoints")}
        options["image_aspect_ratio"] = options["image_aspect_ratio"] or "square"
        super().__init__(
            data_path,
            getattr(data_args, "image_folder", None),
            conversation.default_conversation,
            tokenizer,
            getattr(data_args, "image_processor", None),
            SimpleNamespace(**options, mm_use_im_start_end=getattr(data_args, "mm_use_im_start_end", None) or False),
            tokenizer.model_max_length,
            cut_long=True,
        )
        if self.image_processor is None and any(self.has_image):
            raise ValueError(
                f"{data_path} has pictures, but data_args.image_processor is not set; give model.get_vision_tower().image_processor"
            )

    def __getitem__(self, index: int) -> Item:
        """One record."""
        item = super().__getitem__(index)
        return {**item, "image": item["images"][0]} if len(item["images"]) == 1 else item

    @property
    def list_data_dict(self) -> list[dict[str, Any]]:
        """The records of the file."""
        return self.records

    @property
    def modality_lengths(self) -> list[int]:
        """`lengths`, those of records without a picture negative."""
        return [length if has else -length for length, has in zip(self.lengths, self.has_image)]


@dataclasses.dataclass
class DataCollatorForSupervisedDataset:
    """Makes a batch of items as `Collator` does; an item may have its picture as `image`, as those of LLaVA's dataset.

    Rows are cut at `tokenizer.model_max_length`.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, instances: Sequence[dict[str, Any]]) -> dict[str, Any]:
        items = [self._item(instance) for instance in instances]
        batch = Collator(padding_id(self.tokenizer))(items)
        if not all(len(item["images"]) == len(item["image_sizes"]) for item in items):
            batch.pop("image_sizes", None)
        return batch

    def _item(self, instance: dict[str, Any]) -> Item:
        end = self.tokenizer.model_max_length
        images = instance["images"] if "images" in instance else [instance["image"]] if "image" in instance else []
        return {
            "input_ids": torch.as_tensor(instance["input_ids"])[:end],
            "labels": torch.as_tensor(instance["labels"])[:end],
            "images": images,
            "image_sizes": instance.get("image_sizes", []),
        }


def make_supervised_data_module(tokenizer: PreTrainedTokenizerBase, data_args: Any) -> dict[str, Any]:
    """`train_dataset`, `eval_dataset` (None) and `data_collator`, as keywords of a Trainer."""
    return {
        "train_dataset": LazySupervisedDataset(data_args.data_path, tokenizer, data_args),
        "eval_dataset": None,
        "data_collator": DataCollatorForSupervisedDataset(tokenizer),
    }

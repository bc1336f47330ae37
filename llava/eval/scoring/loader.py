"""Questions of a file as LLaVA's scripts hand them to a model, one by one, for scripts that ask it themselves.

Shapes: B questions of a batch, S ids of a prompt, crops of a picture under "anyres".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import (
    get_model_name_from_path,
    load_image,
    process_images,
    question_with_images,
    tokenizer_image_token,
)
from llava.shards import picture_folder

from ..tasks.base import Line
from .answers_file import chunk

Size = tuple[int, int]
Batch = tuple[Tensor, Tensor, list[Size]]


def split_list(lst: Sequence, n: int) -> list[list]:
    """A list in at most n chunks of the same length, the last of which may be shorter; none is empty."""
    return [part for number in range(n) if (part := chunk(lst, n, number))]


def get_chunk(lst: Sequence, n: int, k: int) -> list:
    """Chunk k (from 0) of n; empty where there are fewer, which is an IndexError in LLaVA."""
    return chunk(lst, n, k)


class CustomDataset(Dataset):
    """Prompts (S,), pixels (3, H, W) or (crops, 3, H, W), and sizes (width, height) of questions with a `text` and an `image`.

    conv_mode: the prompt template (default: the checkpoint's own, else by the model's name); LLaVA's reads `args.conv_mode`
    of the script that it is in.
    """

    def __init__(
        self,
        questions: Sequence[Line],
        image_folder: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any,
        model_config: Any,
        conv_mode: str | None = None,
    ):
        self.questions, self.image_folder = questions, picture_folder(image_folder)
        self.tokenizer, self.image_processor, self.model_config = tokenizer, image_processor, model_config
        path = str(getattr(model_config, "_name_or_path", ""))
        self.conv_mode = conversation_mode(get_model_name_from_path(path) if path else "llava", model_config, conv_mode)

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Size]:
        """One question; ValueError or FileNotFoundError names a picture that cannot be read."""
        line = self.questions[index]
        conv = get_conversation(self.conv_mode)
        conv.append_message(conv.roles[0], question_with_images(line["text"], 1, self.model_config))
        conv.append_message(conv.roles[1], None)
        image: Image.Image = load_image(self.image_folder / line["image"])
        pixels = process_images([image], self.image_processor, self.model_config)[0]
        ids = tokenizer_image_token(conv.get_prompt(), self.tokenizer, return_tensors="pt")
        return ids, pixels, image.size


def collate_fn(batch: Sequence[tuple[Tensor, Tensor, Size]]) -> Batch:
    """Prompts (B, S) of one length, pixels (B, ...) and sizes of a batch."""
    ids, pixels, sizes = zip(*batch)
    return torch.stack(ids), torch.stack(pixels), list(sizes)


def create_data_loader(
    questions: Sequence[Line],
    image_folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: Any,
    model_config: Any,
    batch_size: int = 1,
    num_workers: int = 4,
    conv_mode: str | None = None,
) -> DataLoader:
    """A loader of `CustomDataset` in the order of the questions.

    Raises ValueError for a batch_size other than 1: prompts differ in length, and nothing here pads them.
    """
    if batch_size != 1:
        raise ValueError(f"batch_size={batch_size} must be 1; python -m llava.eval.model_vqa_loader asks in batches")
    dataset = CustomDataset(questions, image_folder, tokenizer, image_processor, model_config, conv_mode)
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, shuffle=False, collate_fn=collate_fn)

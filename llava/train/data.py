"""LLaVA's training data: a file of conversations and a folder (or tar shards) of pictures, checked, tokenised and batched.

Everything that can be wrong with a record (`llava.train.conversations`) and the headers of its pictures is named with
file and number before the first step.

Shapes: S ids of one record, B records of a batch, n pictures of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, get_conversation
from llava.files import excerpt, numbered_lines, parse_json, read_json
from llava.mm_utils import process_images
from llava.pictures import Size, load_image, picture_size, require_picture
from llava.shards import picture_folder

from .conversations import encode_record, images_of, segments_of, turns_apart

logger = logging.getLogger(__name__)

SHOWN = 10  # bad records that an error message names

Item = dict[str, Any]


def read_records(file: str | Path) -> list[Any]:
    """The records of a JSON list, or of a `.jsonl` file, one per line; a line that is not JSON is returned as its text.

    Raises FileNotFoundError, or ValueError for a file that is not a list or is empty; both name it.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"data_path={str(file)!r} does not exist; give a JSON file of conversations")
    advice = "give a JSON list of conversations, whole"
    if file.suffix == ".jsonl":
        records = [_json_or_text(line, file, number) for number, line in numbered_lines(file)]
    else:
        records = read_json(file, list, advice, surrogates=True)
    if not records:
        raise ValueError(f"{file} holds no records; {advice}")
    return records


def _json_or_text(line: str, file: Path, number: int) -> Any:
    try:
        return parse_json(line, file, number, surrogates=True)
    except ValueError:
        return line


class ConversationDataset(Dataset):
    """The good records of a conversation file, each as ids, labels and pixels.

    file: a JSON list or `.jsonl`. image_folder: where the pictures' names begin, a folder or tar shards (`llava.shards`).
    template: a name of `llava.conversation` or a dialogue without turns.
    model_cfg: a config with `image_aspect_ratio` and, for "anyres", `image_grid_pinpoints`; optional on it is
    `mm_use_im_start_end`. max_length: positions a record may take, image tokens included. image_tokens: how many
    positions a picture takes, or a function of its size (width, height); None counts pictures as nothing.

    images_required: a record without a picture is a bad one. cut_long: a record that is too long loses its end, as LLaVA
    does, and is bad only if no answer is left. skip_bad: bad records are logged and left out, also a picture that
    turns out to be damaged (the next record stands in for it); without it they raise ValueError here, each named with
    its number. lazy False tokenises everything now. split_turns: every question of a conversation about a picture is a
    record of its own (`turns_apart`).

    Items: `input_ids`, `labels` (S,), `images` a list of (3, H, W) or (crops, 3, H, W), `image_sizes` (width, height).
    `lengths` (about how long, in bytes) and `has_image` of every record are what a sampler groups by; `skipped` says
    what was left out. Differs from LLaVA's LazySupervisedDataset, where a bad record ends the training when its turn
    comes.
    """

    def __init__(
        self,
        file: str | Path,
        image_folder: str | Path | None,
        template: str | Conversation,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any,
        model_cfg: Any,
        max_length: int,
        image_tokens: int | Callable[[Size], int] | None = None,
        *,
        images_required: bool = False,
        cut_long: bool = False,
        skip_bad: bool = False,
        lazy: bool = True,
        split_turns: bool = False,
    ):
        self.file, self.image_folder = Path(file), picture_folder(image_folder or "")
        self.template = get_conversation(template) if isinstance(template, str) else template
        self.tokenizer = tokenizer
        self.image_processor, self.model_cfg = image_processor, model_cfg
        self.max_length, self.image_tokens = max_length, image_tokens
        self.images_required, self.cut_long, self.skip_bad = images_required, cut_long, skip_bad
        self.records: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.has_image: list[bool] = []
        self.skipped: list[str] = []
        self._encoded: list[tuple[Tensor, Tensor]] | None = None if lazy else []
        for number, record in enumerate(read_records(file), start=1):
            for part in turns_apart(record) if split_turns else [record]:
                self._take(number, part)
        self._report()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        """One record; ValueError naming it, or with skip_bad the next one, where its picture cannot be read."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range; there are {len(self)} records")
        for stand_in in range(index, index + len(self)):
            at = stand_in % len(self)
            try:
                return self._item(at)
            except (ValueError, OSError) as error:
                if not self.skip_bad:
                    raise ValueError(f"{self.names[at]}: {error}") from error
                logger.warning("%s: %s; the next record stands in for it", self.names[at], error)
        raise ValueError(f"{self.file}: no picture of its {len(self)} records can be read")

    def encoded(self, index: int) -> tuple[Tensor, Tensor]:
        """ids and labels (S,) of one record, without its picture."""
        return self._ids(self.records[index]) if self._encoded is None else self._encoded[index]

    def pictures(self, index: int) -> tuple[str, ...]:
        """The names of one record's picture files."""
        return tuple(images_of(self.records[index]))

    def _item(self, index: int) -> Item:
        record = self.records[index]
        ids, labels = self.encoded(index)
        pictures = [load_image(self.image_folder / file) for file in images_of(record)]
        pixels = [process_images([picture], self.image_processor, self.model_cfg)[0] for picture in pictures]
        return {
            "input_ids": ids,
            "labels": labels,
            "images": pixels,
            "image_sizes": [picture.size for picture in pictures],
        }

    def _take(self, number: int, record: Any) -> None:
        """Checks a record and keeps it, or notes what is wrong with it."""
        name = f"{self.file} record {number}"
        if isinstance(record, dict) and "id" in record:
            name += f" (id {excerpt(record['id'])})"
        try:
            length, encoded = self._check(record)
        except (ValueError, OSError) as error:
            self.skipped.append(f"{name}: {error}")
            return
        self.records.append(record)
        self.names.append(name)
        self.lengths.append(length)
        self.has_image.append(bool(record.get("image")))
        if self._encoded is not None and encoded is not None:
            self._encoded.append(encoded)

    def _check(self, record: Any) -> tuple[int, tuple[Tensor, Tensor] | None]:
        """About how long a record is, and its ids where they had to be computed; ValueError says what is wrong."""
        segments = segments_of(record, self.template, self._image_marks)
        files = images_of(record)
        if self.images_required and not files:
            raise ValueError("has no image, but only the projector is trained, which a text without one does not pass")
        for file in files:
            self._check_picture(self.image_folder / file)
        length = sum(len(text.encode()) for text, _ in segments)
        # A piece spells at least one byte, except for the space in front of each text around an image or a separator.
        most = length + 2 * len(segments) + 2 + sum(self._tokens_of(record))
        if self._encoded is None and most <= self.max_length:
            return length, None
        return length, self._ids(record)

    def _check_picture(self, file: Path) -> None:
        """Raises ValueError for a file that is missing or, where nothing else looks at it, no picture by its header."""
        require_picture(file)
        if not self.skip_bad and not callable(self.image_tokens):  # with skip_bad another record stands in for it
            picture_size(file)

    def _ids(self, record: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """ids and labels of a record, no longer than the model reads."""
        ids, labels = encode_record(record, self.template, self.tokenizer, self._image_marks)
        positions = torch.ones_like(ids)
        positions[ids == IMAGE_TOKEN_INDEX] = torch.tensor(self._tokens_of(record), dtype=torch.long)
        ends = positions.cumsum(0)
        if ends[-1] <= self.max_length:
            return ids, labels
        kept = int((ends <= self.max_length).sum())
        images_stay = not (ids[kept:] == IMAGE_TOKEN_INDEX).any()
        if self.cut_long and images_stay and (labels[:kept] != IGNORE_INDEX).any():
            return ids[:kept], labels[:kept]
        raise ValueError(
            f"is {int(ends[-1])} positions long, image tokens included, but model_max_length={self.max_length}"
            + ("; cut there, it would lose an image or every answer" if self.cut_long else "")
        )

    def _tokens_of(self, record: dict[str, Any]) -> list[int]:
        """How many positions each picture of a record takes."""
        if not callable(self.image_tokens):
            return [self.image_tokens or 0 for _ in images_of(record)]
        return [self.image_tokens(picture_size(self.image_folder / file)) for file in images_of(record)]

    @property
    def _image_marks(self) -> bool:
        return getattr(self.model_cfg, "mm_use_im_start_end", False)

    def _report(self) -> None:
        """Raises for bad records, or logs them if they may be skipped."""
        if not self.skipped:
            return
        total = len(self.records) + len(self.skipped)
        more = f"\n  and {len(self.skipped) - SHOWN} more" if len(self.skipped) > SHOWN else ""
        listed = "\n  ".join(self.skipped[:SHOWN]) + more
        if not self.skip_bad:
            raise ValueError(
                f"{len(self.skipped)} of {total} records cannot be trained on; mend them or give --skip_bad_records True:"
                f"\n  {listed}"
            )
        if not self.records:
            raise ValueError(f"none of the {total} records of {self.file} can be trained on:\n  {listed}")
        logger.warning("%d of %d records are skipped:\n  %s", len(self.skipped), total, listed)


# ------------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Collator:
    """Makes a batch of items: ids and labels (B, S) padded on the right, attention_mask (B, S), images and image_sizes.

    images: (n, 3, H, W), or a list where pictures are stacks of crops; a batch without pictures has neither them nor
    image_sizes. The mask comes from lengths: LLaVA asks which ids are not padding, which hides an `<unk>` in the text
    where that is the padding token. pad_token_id: what stands where the mask is False.
    """

    pad_token_id: int

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        ids = [item["input_ids"] for item in items]
        batch: dict[str, Any] = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence([item["labels"] for item in items], batch_first=True, padding_value=IGNORE_INDEX),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).bool(),
        }
        images: list[Tensor] = [image for item in items for image in item["images"]]
        if images:
            batch["images"] = torch.stack(images) if all(image.ndim == 3 for image in images) else images
            batch["image_sizes"] = [size for item in items for size in item["image_sizes"]]
        return batch

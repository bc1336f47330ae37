"""LLaVA's training data: a file of conversations and a folder of pictures, checked, tokenised and batched.

A record is `{"id": ..., "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt",
"value": "A cat."}]}`; one without a picture has no `image`. Everything that can be wrong with one is found before the
first step and named with file and number.

Shapes: S ids of one record, B records of a batch, n pictures of a batch.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import LongTensor, Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    LETTER_ANSWER,
    SHORT_ANSWER,
)
from llava.conversation import Conversation, SeparatorStyle, get_conversation
from llava.mm_utils import Size, load_image, process_images, tokenizer_image_token

logger = logging.getLogger(__name__)

ROLES = ("human", "gpt")  # who speaks at even and at odd turns
BLANK = "▁"  # how sentencepiece writes a blank
SHOWN = 10  # bad records that an error message names

Item = dict[str, Any]
Segment = tuple[str, bool]  # a part of a prompt, and whether it is an answer


# ------------------------------------------------------------------------------------------------------------ a record


def encode_record(
    record: Any, template: str | Conversation, tokenizer: PreTrainedTokenizerBase, image_marks: bool = False
) -> tuple[LongTensor, LongTensor]:
    """One record as the model reads it: `(input_ids, labels)`, both (S,).

    template: a name of `llava.conversation` or a dialogue without turns. image_marks: put `<im_start>` and `<im_end>`
    around every image (`mm_use_im_start_end`). input_ids has one BOS in front and IMAGE_TOKEN_INDEX for every `<image>`;
    labels are those of the answers, each with the separator that ends it, and IGNORE_INDEX elsewhere.

    Raises ValueError that says what is wrong with the record. Equal to LLaVA's `preprocess` for the templates v1 and plain;
    there the labels come from counting the tokens of rounds tokenised apart, and a miscount silently ignores the whole
    record. Here every token is looked up in the prompt, and one that cannot be found raises.
    """
    segments = _segments(record, get_conversation(template) if isinstance(template, str) else template, image_marks)
    prompt = "".join(text for text, _ in segments)
    ids = tokenizer_image_token(prompt, tokenizer)
    answers, place = [], 0
    for text, is_answer in segments:
        start, place = place, place + len(_plain_bytes(text))
        if is_answer:
            answers.append((start, place))
    spans = _spans(prompt, ids, tokenizer)
    labels = [
        token if any(start < last and end > first for first, last in answers) else IGNORE_INDEX
        for token, (start, end) in zip(ids, spans, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(labels)


def turns_of(record: Any) -> list[str]:
    """The texts of a record, questions at even places and answers at odd; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError(f"is no JSON object but {str(record)[:60]!r}")
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError('has no conversations; give a list of {"from": "human" or "gpt", "value": text}')
    for number, turn in enumerate(turns):
        role = turn.get("from") if isinstance(turn, dict) else None
        if role != ROLES[number % 2]:
            raise ValueError(f"turn {number + 1} is from {role!r}; turns must go human, gpt, human, gpt and so on")
        if not isinstance(turn.get("value"), str) or not turn["value"].strip():
            raise ValueError(f"turn {number + 1} ({role}) has no text")
        if role == "gpt" and DEFAULT_IMAGE_TOKEN in turn["value"]:
            raise ValueError(f"turn {number + 1} (gpt) has an {DEFAULT_IMAGE_TOKEN}; images belong into questions")
    if len(turns) % 2:
        raise ValueError("ends with a question; the last turn must be an answer")
    return [turn["value"] for turn in turns]


def images_of(record: dict[str, Any]) -> list[str]:
    """The names of a record's picture files; ValueError where they do not fit its `<image>` tokens."""
    named = record.get("image")
    files = [] if named is None else [named] if isinstance(named, str) else named
    if not isinstance(files, list) or not all(isinstance(file, str) and file for file in files):
        raise ValueError(f"image is {named!r}; give the name of a file, or a list of names")
    wanted = sum(text.count(DEFAULT_IMAGE_TOKEN) for text in turns_of(record)[::2])
    if wanted != len(files):
        raise ValueError(f"has {wanted} {DEFAULT_IMAGE_TOKEN} in its questions but {len(files)} picture files")
    return files


def turns_apart(record: Any) -> list[Any]:
    """A record's questions each with its answer as a record of its own, all with its images; a bad record as it is.

    LLaVA's data ask for short answers in the first question alone; every question gets that line here.
    """
    try:
        turns, files = turns_of(record), images_of(record)
    except ValueError:
        return [record]
    images = "".join(f"{DEFAULT_IMAGE_TOKEN}\n" for _ in files)
    form = next((f"\n{form}" for form in (SHORT_ANSWER, LETTER_ANSWER) if turns[0].rstrip().endswith(f"\n{form}")), "")
    return [
        {
            **record,
            "conversations": [
                {"from": "human", "value": images + _plain(question).removesuffix(form) + form},
                {"from": "gpt", "value": answer},
            ],
        }
        for question, answer in zip(turns[::2], turns[1::2])
    ]


def _plain(question: str) -> str:
    return question.replace(DEFAULT_IMAGE_TOKEN, "").strip()


def _segments(record: Any, template: Conversation, image_marks: bool) -> list[Segment]:
    """The prompt of a record in parts: what comes before an answer, the answer, and so on."""
    texts = turns_of(record)
    if template.sep_style is SeparatorStyle.PLAIN:
        # LLaVA pre-trains on image and caption alone: neither the question nor the separator behind it is there.
        if len(texts) != 2 or texts[0].count(DEFAULT_IMAGE_TOKEN) != 1:
            raise ValueError(f"does not fit the plain template: give one question with one {DEFAULT_IMAGE_TOKEN}")
        return [(DEFAULT_IMAGE_TOKEN, False), (texts[1] + template.sep, True)]
    dialogue, written, segments = template.copy(), "", []
    for question, answer in zip(texts[::2], texts[1::2]):
        dialogue.append_message(dialogue.roles[0], _with_image_first(question, template, image_marks))
        dialogue.append_message(dialogue.roles[1], None)
        asked = dialogue.get_prompt()
        dialogue.messages[-1][1] = answer
        answered = dialogue.get_prompt()
        if not (asked.startswith(written) and answered.startswith(asked)):
            raise ValueError(f"the template {template.version!r} writes earlier turns anew; it cannot be trained on")
        segments += [(asked[len(written) :], False), (answered[len(asked) :], True)]
        written = answered
    return segments


def _with_image_first(text: str, template: Conversation, image_marks: bool) -> str:
    """A question as LLaVA writes it: its image, if it has one, on a line of its own in front."""
    if text.count(DEFAULT_IMAGE_TOKEN) == 1:
        text = f"{DEFAULT_IMAGE_TOKEN}\n{text.replace(DEFAULT_IMAGE_TOKEN, '').strip()}".strip()
    image = DEFAULT_IMAGE_TOKEN
    if image_marks:
        image = f"{DEFAULT_IM_START_TOKEN}{image}{DEFAULT_IM_END_TOKEN}"
    if "mmtag" in template.version:
        image = f"<Image>{image}</Image>"
    return text.replace(DEFAULT_IMAGE_TOKEN, image)


def _spans(prompt: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """Where in the prompt's bytes every id stands; ValueError if they do not spell the prompt."""
    text, place, spans = _plain_bytes(prompt), 0, []
    for number, token in enumerate(ids):
        spelled = _spelling(token, tokenizer)
        if number == 0 and token == tokenizer.bos_token_id:
            spelled = b""
        elif not text.startswith(spelled, place) and spelled.startswith(b" "):
            spelled = spelled[1:]  # the blank that sentencepiece puts in front of every text
        if not text.startswith(spelled, place):
            there = text[place : place + 20].decode(errors="replace")
            raise ValueError(f"the tokenizer reads {spelled.decode(errors='replace')!r} where the prompt has {there!r}")
        spans.append((place, place + len(spelled)))
        place += len(spelled)
    if place < len(text):
        raise ValueError(f"the tokenizer leaves out the end of the prompt, {text[place:].decode(errors='replace')!r}")
    return spans


def _spelling(token: int, tokenizer: PreTrainedTokenizerBase) -> bytes:
    """The bytes that an id stands for."""
    if token == IMAGE_TOKEN_INDEX:
        return DEFAULT_IMAGE_TOKEN.encode()
    piece = tokenizer.convert_ids_to_tokens(token)
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    return bytes.fromhex(byte[1]) if byte else _plain_bytes(piece)


def _plain_bytes(text: str) -> bytes:
    """UTF-8, with one way to write a blank."""
    return text.replace(BLANK, " ").encode()


# ----------------------------------------------------------------------------------------------------------- the records


def read_records(file: str | Path) -> list[Any]:
    """The records of a JSON list, or of a `.jsonl` file one a line; a line that is not JSON is returned as its text.

    Raises FileNotFoundError, or ValueError for a file that is no list or empty; both name it.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"data_path={str(file)!r} does not exist; give a JSON file of conversations")
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        records = [_json_or_text(line) for line in text.split("\n") if line.strip()]
    else:
        try:
            records = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is not valid JSON, perhaps cut short: {error}") from None
    if not isinstance(records, list) or not records:
        raise ValueError(f"{file} holds no records; give a JSON list of conversations")
    return records


def _json_or_text(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return line


class ConversationDataset(Dataset):
    """The good records of a conversation file, each as ids, labels and pixels.

    file: a JSON list or `.jsonl`. image_folder: where the pictures' names begin. template: a name of `llava.conversation`.
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
    what was left out. Differs from LLaVA's LazySupervisedDataset, where a bad record ends the training when it is its turn.
    """

    def __init__(
        self,
        file: str | Path,
        image_folder: str | Path | None,
        template: str,
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
        self.file, self.image_folder = Path(file), Path(image_folder or "")
        self.template, self.tokenizer = get_conversation(template), tokenizer
        self.image_processor, self.model_cfg = image_processor, model_cfg
        self.max_length, self.image_tokens = max_length, image_tokens
        self.images_required, self.cut_long, self.skip_bad = images_required, cut_long, skip_bad
        self.records: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.has_image: list[bool] = []
        self.skipped: list[str] = []
        self._encoded: list[tuple[LongTensor, LongTensor]] | None = None if lazy else []
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

    def encoded(self, index: int) -> tuple[LongTensor, LongTensor]:
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
            name += f" (id {record['id']!r})"
        try:
            length, encoded = self._check(record)
        except (ValueError, OSError) as error:
            self.skipped.append(f"{name}: {error}")
            return
        self.records.append(record)
        self.names.append(name)
        self.lengths.append(length)
        self.has_image.append(bool(record.get("image")))
        if self._encoded is not None:
            self._encoded.append(encoded)

    def _check(self, record: Any) -> tuple[int, tuple[LongTensor, LongTensor] | None]:
        """About how long a record is, and its ids where they had to be computed; ValueError says what is wrong."""
        segments = _segments(record, self.template, self._image_marks)
        files = images_of(record)
        if self.images_required and not files:
            raise ValueError("has no image, but only the projector is trained, which a text without one does not pass")
        for file in files:
            if not os.path.isfile(self.image_folder / file):
                raise ValueError(f"image file {str(self.image_folder / file)!r} does not exist")
        length = sum(len(text.encode()) for text, _ in segments)
        # A piece spells a byte at least, but for the blank in front of each text around an image or a separator.
        most = length + 2 * len(segments) + 2 + sum(self._tokens_of(record))
        if self._encoded is None and most <= self.max_length:
            return length, None
        return length, self._ids(record)

    def _ids(self, record: dict[str, Any]) -> tuple[LongTensor, LongTensor]:
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
        return [self.image_tokens(_picture_size(self.image_folder / file)) for file in images_of(record)]

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


def _picture_size(file: Path) -> Size:
    """(width, height) of a picture file, from its first bytes."""
    try:
        with Image.open(file) as picture:
            return picture.size
    except UnidentifiedImageError as error:
        raise ValueError(f"image {str(file)!r} cannot be read: {error}") from error


# ------------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Collator:
    """Makes a batch of items: ids and labels (B, S) padded on the right, attention_mask (B, S), images and image_sizes.

    images: (n, 3, H, W), or a list where pictures are stacks of crops; a batch without pictures has neither them nor
    image_sizes. The mask comes from lengths: LLaVA asks which ids are not padding, which hides an `<unk>` of the text
    where padding is written so. pad_token_id: what stands where the mask is False.
    """

    pad_token_id: int

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        ids = [item["input_ids"] for item in items]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence([item["labels"] for item in items], batch_first=True, padding_value=IGNORE_INDEX),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).bool(),
        }
        images: list[Tensor] = [image for item in items for image in item["images"]]
        if images:
            batch["images"] = torch.stack(images) if all(image.ndim == 3 for image in images) else images
            batch["image_sizes"] = [size for item in items for size in item["image_sizes"]]
        return batch

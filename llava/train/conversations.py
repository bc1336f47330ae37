"""A record of LLaVA's training data, and the ids and labels that it becomes.

A record is `{"id": ..., "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt",
"value": "A cat."}]}`; one without a picture has no `image`.

Shapes: S ids of a record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import decoders
from torch import Tensor
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
from llava.files import SURROGATE, excerpt
from llava.mm_utils import tokenizer_image_token

ROLES = ("human", "gpt")  # who speaks at even and at odd turns
BLANK = "▁"  # how sentencepiece writes a space

# The letter with which byte-level BPE writes each byte: itself where it is printable, else one from U+0100 on
_SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
BYTES = {chr(byte): byte for byte in _SHOWN} | {chr(256 + place): byte for place, byte in enumerate(_HIDDEN)}

Segment = tuple[str, bool]  # a part of a prompt, and whether it is an answer


def encode_record(
    record: Any, template: str | Conversation, tokenizer: PreTrainedTokenizerBase, image_marks: bool = False
) -> tuple[Tensor, Tensor]:
    """One record as the model reads it: `(input_ids, labels)`, both (S,).

    template: a name of `llava.conversation` or a dialogue without turns. image_marks: put `<im_start>` and `<im_end>`
    around every image (`mm_use_im_start_end`). input_ids has one BOS in front and IMAGE_TOKEN_INDEX for every `<image>`;
    labels are those of the answers, each with the separator that ends it, and IGNORE_INDEX elsewhere.

    Raises ValueError that says what is wrong with the record. Equal to LLaVA's `preprocess` for the templates v1 and plain;
    there the labels come from counting the tokens of rounds tokenised one by one, and a miscount silently ignores the
    whole record. Here every token is looked up in the prompt, and one that cannot be found raises.
    """
    segments = segments_of(record, get_conversation(template) if isinstance(template, str) else template, image_marks)
    normal = _normaliser(tokenizer)
    segments = [(normal(text), is_answer) for text, is_answer in segments]
    prompt = "".join(text for text, _ in segments)
    ids = tokenizer_image_token(prompt, tokenizer)
    answers, end = [], 0
    for text, is_answer in segments:
        start, end = end, end + len(text.encode())
        if is_answer:
            answers.append((start, end))
    spans = _spans(prompt, ids, tokenizer)
    labels = [
        token if any(start < last and end > first for first, last in answers) else IGNORE_INDEX
        for token, (start, end) in zip(ids, spans, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(labels)


def turns_of(record: Any) -> list[str]:
    """The texts of a record, questions at even places and answers at odd; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError(f"is no JSON object but {excerpt(record)}")
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError('has no conversations; give a list of {"from": "human" or "gpt", "value": text}')
    for number, turn in enumerate(turns):
        role = turn.get("from") if isinstance(turn, dict) else None
        if role != ROLES[number % 2]:
            raise ValueError(
                f"turn {number + 1} is from {excerpt(role)}; turns must go human, gpt, human, gpt and so on"
            )
        if not isinstance(turn.get("value"), str) or not turn["value"].strip():
            raise ValueError(f"turn {number + 1} ({role}) has no text")
        if half := SURROGATE.search(turn["value"]):
            raise ValueError(f"turn {number + 1} ({role}) has {half[0]!a}, half of a surrogate pair and no character")
        if role == "gpt" and DEFAULT_IMAGE_TOKEN in turn["value"]:
            raise ValueError(f"turn {number + 1} (gpt) has an {DEFAULT_IMAGE_TOKEN}; images belong into questions")
    if len(turns) % 2:
        raise ValueError("ends with a question; the last turn must be an answer")
    return [turn["value"] for turn in turns]


def images_of(record: dict[str, Any]) -> list[str]:
    """The names of a record's picture files; ValueError where they do not fit its `<image>` tokens."""
    image = record.get("image")
    files = [] if image is None else [image] if isinstance(image, str) else image
    if not isinstance(files, list) or not all(isinstance(file, str) and file for file in files):
        raise ValueError(f"image is {excerpt(image)}; give the name of a file, or a list of names")
    tokens = sum(text.count(DEFAULT_IMAGE_TOKEN) for text in turns_of(record)[::2])
    if tokens != len(files):
        raise ValueError(f"has {tokens} {DEFAULT_IMAGE_TOKEN} in its questions but {len(files)} picture files")
    return files


def turns_apart(record: Any) -> list[Any]:
    """Each of a record's questions, with its answer, as a separate record with all its images.

    A bad record, and one without images, whose turns may speak of one another, is left as it is. LLaVA's data ask for
    short answers only in the first question; here every question gets that line.
    """
    try:
        turns, files = turns_of(record), images_of(record)
    except ValueError:
        return [record]
    if not files:
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


def segments_of(record: Any, template: Conversation, image_marks: bool) -> list[Segment]:
    """The prompt of a record in parts: what comes before an answer, the answer, and so on."""
    texts = turns_of(record)
    if template.sep_style is SeparatorStyle.PLAIN:
        # LLaVA pre-trains on image and caption alone: neither the question nor the separator after it is there.
        if len(texts) != 2 or texts[0].count(DEFAULT_IMAGE_TOKEN) != 1:
            raise ValueError(f"does not fit the plain template: give one question with one {DEFAULT_IMAGE_TOKEN}")
        return [(DEFAULT_IMAGE_TOKEN, False), (texts[1] + template.sep, True)]
    dialogue, written, segments = template.copy(), "", []
    for question, answer in zip(texts[::2], texts[1::2]):
        dialogue.append_message(dialogue.roles[0], with_image_first(question, template, image_marks))
        dialogue.append_message(dialogue.roles[1], None)
        asked = dialogue.get_prompt()
        dialogue.messages[-1][1] = answer
        answered = dialogue.get_prompt()
        if not (asked.startswith(written) and answered.startswith(asked)):
            raise ValueError(
                f"the template {template.version!r} writes earlier turns differently later on; it cannot be trained on"
            )
        segments += [(asked[len(written) :], False), (answered[len(asked) :], True)]
        written = answered
    return segments


def with_image_first(text: str, template: Conversation, image_marks: bool) -> str:
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
    text, place, spans = prompt.encode(), 0, []
    for number, token in enumerate(ids):
        spelled = _spelling(token, tokenizer)
        if number == 0 and token == tokenizer.bos_token_id and not text.startswith(spelled):
            spelled = b""
        elif not text.startswith(spelled, place) and spelled.startswith(b" "):
            spelled = spelled[1:]  # the space that sentencepiece puts in front of every text
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
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if _is_byte_level(tokenizer):
        whole = token in tokenizer.added_tokens_decoder
        return piece.encode() if whole else bytes(BYTES[letter] for letter in piece)
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace(BLANK, " ").encode()


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the pieces are spelled in the letters that stand for bytes, as those of Llama-3 and Qwen2."""
    return isinstance(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None), decoders.ByteLevel)


def _normaliser(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    """What the tokenizer does to a text before it cuts it: one way to write a space, or Unicode's composed form."""
    if not _is_byte_level(tokenizer):
        return lambda text: text.replace(BLANK, " ")
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = backend.normalizer
    return normalizer.normalize_str if normalizer is not None else lambda text: text

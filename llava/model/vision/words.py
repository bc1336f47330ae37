"""The words that are asked about an image: as embeddings of the language model, and as text for CLIP.

They are what stands after the image and, in training, before the first answer that follows it: an answer is never part of
a question.

Shapes: G images, T words, D the language model's width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import get_conversation


def questions(embed: nn.Embedding, ids: list[Tensor], targets: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """For every image of every row the embeddings (G, T, D) of its question, and which are real (G, T).

    None where no row has an image.
    """
    words = [embed(question).detach() for question in _question_ids(ids, targets)]
    if not words:
        return None
    real = [torch.ones(len(question), dtype=torch.bool, device=question.device) for question in words]
    return nn.utils.rnn.pad_sequence(words, batch_first=True), nn.utils.rnn.pad_sequence(real, batch_first=True)


def asked(ids: list[Tensor], targets: list[Tensor], tokenizer: Any, conv_mode: str | None) -> list[str]:
    """For every image of every row its question as text, without what the prompt template puts around it.

    Raises ValueError where no tokenizer is known that could read the prompt.
    """
    if tokenizer is None:
        raise ValueError(
            "the plan reads the question as text, but this model knows no tokenizer; load it with load_pretrained_model, or"
            " set model.text_tokenizer = tokenizer"
        )
    template = None if conv_mode is None else get_conversation(conv_mode)
    marks = () if template is None else (template.roles[1], template.sep, template.sep2)
    return [
        _bare(tokenizer.decode(question, skip_special_tokens=True), marks) for question in _question_ids(ids, targets)
    ]


def _question_ids(ids: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
    found = []
    for row, target in zip(ids, targets, strict=True):
        text = row != IMAGE_TOKEN_INDEX
        for image in (row == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist():
            unanswered = (target[image:] == IGNORE_INDEX).long().cumprod(0).bool()
            found.append(row[image:][unanswered & text[image:]])
    return found


def _bare(text: str, marks: tuple[str | None, ...]) -> str:
    """A text up to the last of the template's marks at its end, which open the answer."""
    text = text.strip()
    for mark in marks:
        mark = (mark or "").strip()
        head, found, tail = text.rpartition(mark) if mark else (text, "", "")
        if found and len(tail.strip()) <= 1:  # what follows is a colon at most
            text = head.strip()
    return text

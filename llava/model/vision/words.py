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
    opening = _opening(tokenizer, conv_mode)
    texts = [tokenizer.decode(question, skip_special_tokens=True).strip() for question in _question_ids(ids, targets)]
    return [text.removesuffix(opening).strip() for text in texts]


def _opening(tokenizer: Any, conv_mode: str | None) -> str:
    """What a template puts after a question to open the answer, as it looks when it is read back from tokens."""
    if conv_mode is None:
        return ""
    conversation = get_conversation(conv_mode)
    conversation.append_message(conversation.roles[0], "?")
    conversation.append_message(conversation.roles[1], None)
    behind = conversation.get_prompt().rpartition("?")[2]
    return tokenizer.decode(tokenizer(behind).input_ids, skip_special_tokens=True).strip()


def _question_ids(ids: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
    found = []
    for row, target in zip(ids, targets, strict=True):
        text = row != IMAGE_TOKEN_INDEX
        for image in (row == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist():
            unanswered = (target[image:] == IGNORE_INDEX).long().cumprod(0).bool()
            found.append(row[image:][unanswered & text[image:]])
    return found

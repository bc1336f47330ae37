"""The question about a picture, bare of its template."""

from __future__ import annotations

import pytest
import torch

from llava.conversation import get_conversation
from llava.mm_utils import tokenizer_image_token
from llava.model.vision.words import asked


@pytest.mark.parametrize("mode", ["vicuna_v1", "llava_v1", "llava_v0", "llava_llama_2", "plain", "mpt"])
def test_what_the_template_puts_around_it_is_gone(llava15, mode):
    conversation = get_conversation(mode)
    conversation.append_message(conversation.roles[0], "<image>\nWhere is the dog?")
    conversation.append_message(conversation.roles[1], None)
    ids = tokenizer_image_token(conversation.get_prompt(), llava15.tokenizer, return_tensors="pt")
    (question,) = asked([ids], [torch.full_like(ids, -100)], llava15.tokenizer, mode)
    assert question == "Where is the dog?"


def test_an_answer_that_is_being_taught_is_no_question(llava15):
    ids = torch.tensor(
        [1, -200, *llava15.tokenizer("Where is it?").input_ids[1:], *llava15.tokenizer("There.").input_ids]
    )
    answer = len(llava15.tokenizer("There.").input_ids)
    labels = torch.full_like(ids, -100)
    labels[-answer:] = ids[-answer:]
    assert asked([ids], [labels], llava15.tokenizer, None) == ["Where is it?"]


def test_without_a_tokenizer_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"model.text_tokenizer = tokenizer"):
        asked([torch.tensor([1, -200, 5])], [torch.tensor([-100] * 3)], None, None)

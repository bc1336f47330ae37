"""The chat in the terminal: streamed, several turns, every reduction flag."""

from __future__ import annotations

import pytest
import torch
from conftest import PARITY15

from llava.conversation import get_conversation
from llava.mm_utils import tokenizer_image_token
from llava.serve.cli import Chat, main, parser


def arguments(*more):
    files = ["--model-path", str(PARITY15 / "checkpoint"), "--image-file", str(PARITY15 / "image0.png")]
    return parser().parse_args([*files, "--device", "cpu", "--conv-mode", "vicuna_v1", "--temperature", "0", *more])


def lines(*texts):
    rest = iter(texts)

    def read(prompt):
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read


def test_first_answer_is_the_official_one(llava15, capsys):
    case = llava15.cases()[0]
    main(arguments("--max-new-tokens", "16"), lines(case["question"], ""))
    assert case["text"] in capsys.readouterr().out


def test_end_of_input_ends_the_chat(capsys):
    main(arguments("--max-new-tokens", "2", "--reduction", "fastv@2:64"), lines("one?", "two?"))
    assert capsys.readouterr().out.count("ASSISTANT: ") == 2


def test_later_turns_see_the_earlier(llava15):
    case = llava15.cases()[0]
    options = {"do_sample": False, "max_new_tokens": 6}
    conv = get_conversation("vicuna_v1")
    chat = Chat(llava15.tokenizer, llava15.model, llava15.image_processor, conv, llava15.images(case), **options)
    first = chat.say(case["question"])
    second = chat.say("Why?")

    told = get_conversation("vicuna_v1")
    for text in (f"<image>\n{case['question']}", first, "Why?", None):
        told.append_message(told.roles[len(told.messages) % 2], text)
    ids = tokenizer_image_token(told.get_prompt(), llava15.tokenizer, return_tensors="pt")[None]
    new = llava15.model.generate(ids, images=llava15.inputs(case)["images"], **options)
    assert second == llava15.tokenizer.decode(new[0], skip_special_tokens=True).strip()
    assert conv.messages[1][1] == first and ids.eq(-200).sum() == 1 and torch.is_tensor(chat.pixels)


def test_a_missing_picture_is_named():
    args = arguments()
    args.image_file = ["no-such.png"]
    with pytest.raises(FileNotFoundError, match="no-such.png"):
        main(args, lines(""))

"""The chat in the terminal: streamed, several turns, every reduction flag."""

from __future__ import annotations

import pytest
import torch

from llava import reduced
from llava.conversation import get_conversation
from llava.mm_utils import tokenizer_image_token
from llava.model.multimodal_encoder.tower import VisionTower
from llava.serve.cli import Chat, main, parser
from tests.conftest import PARITY15


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


@pytest.fixture
def chat_with(llava15):
    """Makes a greedy chat about the first picture of the original's answers."""

    def make(max_new_tokens=3, **options):
        conv = get_conversation("vicuna_v1")
        images = llava15.images(llava15.cases()[0])
        options = {"do_sample": False, "max_new_tokens": max_new_tokens, **options}
        return Chat(llava15.tokenizer, llava15.model, llava15.image_processor, conv, images, **options)

    return make


@pytest.fixture
def chat(chat_with):
    return chat_with()


def test_first_answer_is_the_official_one(llava15, capsys):
    case = llava15.cases()[0]
    main(arguments("--max-new-tokens", "16"), lines(case["question"], ""))
    assert case["text"] in capsys.readouterr().out


def test_end_of_input_ends_the_chat(capsys):
    main(arguments("--max-new-tokens", "2", "--reduction", "fastv@2:64"), lines("one?", "two?"))
    assert capsys.readouterr().out.count("ASSISTANT: ") == 2


def test_later_turns_see_the_earlier(llava15, chat_with):
    case = llava15.cases()[0]
    chat = chat_with(max_new_tokens=6)
    first = chat.say(case["question"])
    second = chat.say("Why?")

    told = get_conversation("vicuna_v1")
    for text in (f"<image>\n{case['question']}", first, "Why?", None):
        told.append_message(told.roles[len(told.messages) % 2], text)
    ids = tokenizer_image_token(told.get_prompt(), llava15.tokenizer, return_tensors="pt")[None]
    new = llava15.model.generate(ids, images=llava15.inputs(case)["images"], **chat.options)
    assert second == llava15.tokenizer.decode(new[0], skip_special_tokens=True).strip()
    assert chat.conv.messages[1][1] == first and ids.eq(-200).sum() == 1 and torch.is_tensor(chat.pixels)


@pytest.mark.parametrize("reduction", [None, "random@features:9", "fastervlm:9", "tome:144+divprune:9"])
def test_the_tower_sees_the_images_once_for_all_turns(llava15, chat_with, reduction, monkeypatch):
    chat = chat_with(reduction=reduction)
    passes = []
    encode = VisionTower.encode
    monkeypatch.setattr(VisionTower, "encode", lambda *given, **named: passes.append(1) or encode(*given, **named))
    answers = [chat.say(question) for question in ("What is there?", "Why?")]
    assert len(passes) == 1

    told = chat.conv.copy()
    told.messages[-1][1] = None
    ids = tokenizer_image_token(told.get_prompt(), llava15.tokenizer, return_tensors="pt")[None]
    new = llava15.model.generate(ids, images=chat.pixels, image_sizes=chat.sizes, **chat.options)
    assert answers[1] == llava15.tokenizer.decode(new[0], skip_special_tokens=True).strip()


def test_another_plan_between_turns_sees_the_images_anew(chat):
    chat.say("one?")
    with reduced(chat.model, "fastervlm:9"):
        chat.say("two?")
        assert [cost.visual_per_layer[0] for cost in chat.model.last_cost()] == [9]


def test_a_missing_picture_is_named():
    args = arguments()
    args.image_file = ["no-such.png"]
    with pytest.raises(FileNotFoundError, match="no-such.png"):
        main(args, lines(""))


def test_the_oldest_turns_make_room_for_the_newest_question(chat, chat_with, monkeypatch, caplog):
    first = chat.say("What is the first question?")
    one_turn = len(tokenizer_image_token(chat.conv.get_prompt(), chat.tokenizer)) - 1
    visual = chat.model.get_vision_tower().num_patches
    monkeypatch.setattr(chat.model.config, "tokenizer_model_max_length", one_turn + visual + 12)
    second = chat.say("And what is the second one?")
    assert "no longer sees the 1 oldest turns" in caplog.text
    assert second == chat_with().say("And what is the second one?") and first not in chat.conv.get_prompt()
    assert chat.conv.get_prompt().count("<image>") == 1


def test_room_is_made_under_the_plan_in_force(chat, monkeypatch):
    monkeypatch.setattr(chat.model.config, "tokenizer_model_max_length", 128)
    with reduced(chat.model, "fastervlm:9"):
        chat.say("one?")
    with pytest.raises(ValueError, match="more than the model's 128 positions"):
        chat.say("two?")  # all 576 tokens


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("long " * 3000, "more than the model's 2048 positions"),
        ("what is <image>?", "first question only"),
        ("\ud83d", "half"),
    ],
)
def test_a_line_that_cannot_be_asked_leaves_the_chat_as_it_was(chat, line, message, monkeypatch):
    monkeypatch.setattr(chat.model.config, "tokenizer_model_max_length", 2048)
    chat.say("one?")
    before = chat.conv.get_prompt()
    with pytest.raises(ValueError, match=message):
        chat.say(line)
    assert chat.conv.get_prompt() == before
    chat.say("two?")


def test_the_chat_goes_on_after_a_line_that_cannot_be_asked(capsys):
    main(arguments("--max-new-tokens", "2"), lines("one?", "<image>", "two?", ""))
    shown = capsys.readouterr().out
    assert "first question only" in shown and shown.count("ASSISTANT: ") == 3

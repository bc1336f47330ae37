"""A stock model of transformers behind the server: the same weights, answers and kept tokens as our own class."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

pytest.importorskip("pydantic", reason="the server's extra is not installed: pip install 'llava-condense[serve]'")

from llava import load_pretrained_model  # noqa: E402
from llava.conversation import get_conversation  # noqa: E402
from llava.model import convert  # noqa: E402
from llava.serve.openai.__main__ import open_chat, parser  # noqa: E402
from llava.serve.openai.chat import Turn  # noqa: E402
from llava.serve.openai.llava_chat import LlavaChat  # noqa: E402
from llava.serve.openai.stock_chat import StockChat  # noqa: E402
from llava.shapes.world import make_scene, render  # noqa: E402
from tests.serve.answers import answer  # noqa: E402
from tests.shapes.test_embedded_model import CHECKPOINT  # noqa: E402

PLANS = ["", "fastv@2:25%", "divprune:64"]
QUESTIONS = ["What is the background of the image?", "Is there a circle in the image? Answer yes or no."]


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """The embedded model as our own class and as transformers' LLaVA."""
    folder = tmp_path_factory.mktemp("stock") / "llava-hf"
    convert.to_llava_hf(CHECKPOINT, folder)
    tokenizer, model, image_processor, _ = load_pretrained_model(CHECKPOINT, device="cpu")
    own = LlavaChat("own", tokenizer, model, image_processor, get_conversation("vicuna_v1"))
    stock = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return own, StockChat("stock", stock, AutoProcessor.from_pretrained(folder), reduction="fastv@2:16")


def turns(number: int) -> list[Turn]:
    return [Turn("user", QUESTIONS[number % 2], [render(make_scene(number))])]


@pytest.mark.parametrize("plan", PLANS)
def test_a_stock_model_answers_as_our_own_class(chats, plan):
    own, stock = chats
    for number in range(3):
        assert answer(stock, turns(number), plan=plan) == answer(own, turns(number), plan=plan)


@pytest.mark.parametrize("plan", PLANS)
def test_a_batch_of_a_stock_model_is_each_alone(chats, plan):
    _, stock = chats
    questions = [
        turns(0),
        turns(1),
        [Turn("user", "Hello?")],
        [*turns(2), Turn("assistant", "No."), Turn("user", "Why?")],
    ]
    assert answer(stock, *questions, plan=plan) == [answer(stock, one, plan=plan)[0] for one in questions]


def test_a_request_without_a_plan_follows_the_server_s(chats):
    ((_, end),) = answer(chats[1], turns(0))
    assert end.usage.visual == 576 and list(end.usage.visual_per_layer) == [576, 576] + [16] * 12
    assert not any("forward" in vars(module) for module in chats[1].model.modules()), "the model is as it was"


def test_the_command_opens_either(tmp_path_factory, chats, monkeypatch):
    folder = next(tmp_path_factory.getbasetemp().glob("stock*/llava-hf"))
    flags = ["--model-path", str(folder), "--stock", "--device", "cpu", "--reduction", "fastv@2:16"]
    opened = open_chat(parser().parse_args(flags))
    assert isinstance(opened, StockChat) and answer(opened, turns(0)) == answer(chats[1], turns(0))
    own = open_chat(parser().parse_args(["--model-path", str(CHECKPOINT), "--device", "cpu"]))
    assert isinstance(own, LlavaChat) and own.name == "llava-shapes-v1"
    for flag in ("--load-4bit", "--use-fast-v"):
        with pytest.raises(ValueError, match=f"{flag} has no effect"):
            open_chat(parser().parse_args([*flags, flag]))
    monkeypatch.setenv("LLAVA_REDUCTION", "divprune:4")
    assert [str(stage) for stage in open_chat(parser().parse_args(flags[:-2])).reduction] == ["divprune:4"]


def test_what_a_stock_model_cannot_be_asked(chats):
    _, stock = chats
    with pytest.raises(ValueError, match="downsample.*stands at"):
        answer(stock, turns(0), plan="downsample:64")
    with pytest.raises(ValueError, match="stands for a picture"):
        answer(stock, [Turn("user", "<image> what?")])
    with pytest.raises(ValueError, match="exceed the model's"):
        answer(stock, [Turn("user", "word " * 4200)])
    with pytest.raises(ValueError, match="takes no pictures"):
        StockChat("text", stock.model.model.language_model, stock.processor)

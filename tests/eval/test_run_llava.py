"""One question on the command line gives the official answer."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from llava.cli.settings import ModelSpec
from llava.eval.run_llava import chosen_mode, eval_model, image_parser, parser
from tests.conftest import PARITY15


def arguments(*more):
    paths = ["--model-path", str(PARITY15 / "checkpoint"), "--device", "cpu", "--conv-mode", "vicuna_v1"]
    return parser().parse_args([*paths, "--temperature", "0", "--max-new-tokens", "16", *more])


def picture(number):
    return str(PARITY15 / f"image{number}.png")


@pytest.mark.parametrize("number", [0, 2])
def test_answers_as_the_official_code(llava15, capsys, number):
    case = llava15.cases()[number]
    files = ";".join(picture(i) for i in case["images"])
    text = eval_model(arguments("--image-file", files, "--sep", ";", "--query", case["question"]))
    assert text == case["text"].strip() and capsys.readouterr().out == text + "\n"


def test_reduction_flags_change_the_answer(llava15):
    case = llava15.cases()[0]
    args = arguments("--image-file", picture(0), "--query", case["question"], "--reduction", "fastv@2:1")
    assert eval_model(args) != case["text"].strip()


def test_llavas_own_namespace_is_enough(llava15):
    case = llava15.cases()[0]
    args = SimpleNamespace(
        model_path=str(PARITY15 / "checkpoint"),
        model_base=None,
        query=case["question"],
        conv_mode="vicuna_v1",
        image_file=picture(0),
        sep=",",
        temperature=0,
        top_p=None,
        num_beams=1,
        max_new_tokens=16,
    )
    assert eval_model(args) == case["text"].strip()


def test_files_are_split():
    assert image_parser(SimpleNamespace(image_file="a.png,b.png", sep=",")) == ["a.png", "b.png"]
    assert image_parser(SimpleNamespace(image_file="", sep=",")) == []


def test_mode_of_the_name_or_of_the_user(caplog):
    caplog.set_level(logging.WARNING)
    assert chosen_mode(ModelSpec("a/llava-v1.5-7b")) == "llava_v1"
    assert not caplog.text
    assert chosen_mode(ModelSpec("a/llava-v1.5-7b", conv_mode="plain")) == "plain"
    assert "llava_v1" in caplog.text

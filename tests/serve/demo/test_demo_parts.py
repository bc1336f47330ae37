"""What the demo computes, without gradio: plans from controls, answers under two plans, kept patches, refusals."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
from PIL import Image

from llava.cli.settings import ModelSpec
from llava.model.convert import to_llava_hf
from llava.reduction import method_names, plan_from
from llava.serve.demo import __main__ as command
from llava.serve.demo.asking import LONGEST_QUESTION, Answer, Asker
from llava.serve.demo.controls import controls, spelled
from llava.serve.demo.drawing import drawn
from llava.serve.demo.examples import EXAMPLES, write_examples
from llava.serve.demo.fragments import figure, message, numbers
from llava.serve.demo.observing import Kept
from llava.serve.openai.chat import Job, Question, Sampling, Turn
from llava.serve.openai.opening import stock_chat
from tests.shapes.test_embedded_model import CHECKPOINT

QUESTION = "What is the background of the image?"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("examples"))[0][0]


@pytest.fixture(scope="module")
def answers(asker, picture):
    """Of two plans, with the events that came before each."""
    events = list(asker.ask(picture, QUESTION, ["full", "fastv@2:64"]))
    return events, [event for _, event in events if isinstance(event, Answer)]


# ---------------------------------------------------------------------------------------------------------- the controls


@pytest.mark.parametrize("method", method_names())
def test_what_the_controls_spell_is_a_plan(method):
    offered = controls(method, 14)
    assert offered.about.endswith(".") and 0 <= offered.layer <= offered.last_layer < 14 or not offered.last_layer
    for layer in {0, offered.layer, 5}:
        (stage,) = plan_from(spelled(method, layer, 64))
        assert stage.name == method
        assert layer == 0 or stage.layer == (layer if offered.last_layer else None)
        assert stage.keep == (None if offered.least is None else 64)


def test_controls_of_some_methods():
    assert spelled("fastv", 2, 64) == "fastv@2:64" and spelled("fastv", 2, 25, percent=True) == "fastv@2:25%"
    assert spelled("full", 0, 64) == "full" and spelled("grid", 3, 64) == "grid:64"
    assert controls("fastv", 14).layer == 2 and controls("grid", 14).last_layer == 0
    with pytest.raises(ValueError, match="unknown"):
        controls("nothing", 14)


# ------------------------------------------------------------------------------------------------------------ the answers


def test_two_plans_are_answered_in_order_word_by_word(answers):
    events, (full, fastv) = answers
    assert [side for side, _ in events] == sorted(side for side, _ in events)
    assert isinstance(events[0][1], str) and full.text.startswith(events[0][1])
    assert (full.plan, fastv.plan) == ("full", "fastv@2:64") and full.text and fastv.text
    assert list(full.visual_per_layer) == [576] * 14 and list(fastv.visual_per_layer) == [576] * 2 + [64] * 12
    assert full.flops > 2 * fastv.flops > 0
    assert 0 < fastv.first_ms <= fastv.whole_ms and full.complete and full.tokens >= 1


def test_patches_are_those_that_each_layer_is_given(answers, asker, picture):
    _, (full, fastv) = answers
    assert [len(kept.patches) for kept in full.kept] == [576] * 14
    assert [len(kept.patches) for kept in fastv.kept] == [576] * 2 + [64] * 12
    assert fastv.kept[5].grid == (24, 24) and fastv.view.shape == (336, 336, 3)
    prompt = asker.chat.prepare(Question([Turn("user", QUESTION, [Image.open(picture)])], Sampling(), "fastv@2:64"), 1)
    asker.chat.generate([Job(prompt, lambda event: None)])
    assert set(fastv.kept[5].patches) == set(asker.chat.model.last_trace[-1].kept[0].tolist())


@pytest.mark.parametrize(
    ("plan", "first", "last", "merged"),
    [
        ("pool:64", 64, 64, True),
        ("divprune:64", 64, 64, False),
        ("downsample:64", 64, 64, True),
        ("blind", 0, 0, False),
    ],
)
def test_patches_of_plans_before_the_language_model(asker, picture, plan, first, last, merged):
    (answer,) = [event for _, event in asker.ask(picture, QUESTION, [plan]) if isinstance(event, Answer)]
    counts = [len(kept.patches) for kept in answer.kept]
    assert (counts[0], counts[-1], answer.kept[0].merged) == (first, last, merged)


@pytest.fixture(scope="module")
def stock_asker(asker, tmp_path_factory):
    """The same weights behind transformers' own class, as ``llava demo --stock`` opens them."""
    folder = tmp_path_factory.mktemp("stock") / "llava-hf"
    to_llava_hf(CHECKPOINT, folder)
    with Asker(stock_chat(ModelSpec(folder, device="cpu")), asker.limits, seconds=60) as stock:
        yield stock


@pytest.mark.parametrize("plan", ["full", "fastv@2:64", "divprune:64"])
def test_a_stock_model_shows_what_our_own_class_does(asker, stock_asker, picture, plan):
    own, stock = (
        next(event for _, event in one.ask(picture, QUESTION, [plan]) if isinstance(event, Answer))
        for one in (asker, stock_asker)
    )
    assert stock.text == own.text
    assert own.flops < stock.flops < 1.2 * own.flops  # transformers runs the tower's last layer too
    assert list(stock.visual_per_layer) == list(own.visual_per_layer)
    assert [kept.grid for kept in stock.kept] == [(24, 24)] * 14
    assert [kept.patches.tolist() for kept in stock.kept] == [sorted(kept.patches.tolist()) for kept in own.kept]
    np.testing.assert_allclose(stock.view, own.view, atol=1e-5)
    assert stock_asker.picture_tokens() == 576


def test_every_picture_of_this_model_has_as_many_tokens(asker):
    assert asker.picture_tokens() == 576 and asker.layers == 14


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("question", "plans", "said"),
    [
        (" ", ["full", "full"], "The question is empty"),
        ("x" * (LONGEST_QUESTION + 1), ["full", "full"], "characters"),
        ("What?", ["full", "fastvv@2:64"], "Plan B: method 'fastvv' is unknown"),
        ("What?", ["fastv@99:64", "full"], "Plan A: layer=99"),
        ("What?", ["full", " "], "Plan B: the plan is empty"),
        ("What?", ["full", "configs/methods/fastv.yaml"], "Plan B: a plan from outside cannot name files"),
        ("What?", ["merger:64,weights=/etc", "full"], "Plan A: a plan from outside cannot name files"),
        ("What?", ["full", "fastv@2:900"], "Plan B: keep=900"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(asker, picture, question, plans, said):
    with pytest.raises(ValueError) as refused:
        list(asker.ask(picture, question, plans))
    text = str(refused.value)
    assert text.startswith(said) or said in text
    assert "\n" not in text and text.endswith(".")


def test_pictures_that_are_refused(asker, tmp_path):
    with pytest.raises(ValueError, match="no picture; upload one"):
        list(asker.ask(None, QUESTION, ["full"]))
    bad, large, wide = tmp_path / "bad.png", tmp_path / "large.png", tmp_path / "wide.png"
    bad.write_bytes(b"this is no picture")
    large.write_bytes(bytes(asker.limits.image_bytes + 1))
    Image.new("RGB", (2000, 1000)).save(wide)
    for file, said in ((bad, "cannot be read"), (large, "MiB"), (wide, "2000 x 1000 pixels")):
        with pytest.raises(ValueError, match=said):
            list(asker.ask(file, QUESTION, ["full"]))


def test_the_time_ends(asker, picture):
    with (
        Asker(asker.chat, asker.limits, seconds=0) as hurried,
        pytest.raises(TimeoutError, match="Plan A: stopped, the 0 seconds are over"),
    ):
        list(hurried.ask(picture, QUESTION, ["full"]))


def test_a_reader_who_goes_ends_the_answer(asker, picture, monkeypatch):
    jobs = []
    generate = asker.chat.generate
    monkeypatch.setattr(asker.chat, "generate", lambda given: (jobs.extend(given), generate(given)))
    events = asker.ask(picture, QUESTION, ["full", "full"])
    next(events)
    events.close()
    time.sleep(0.1)
    assert len(jobs) == 1 and jobs[0].cancelled.is_set()


def test_a_model_that_fails_is_logged_and_one_sentence(asker, picture, monkeypatch, caplog):
    def fail(jobs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(asker.chat, "generate", fail)
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="Plan A: the model failed with RuntimeError"):
        list(asker.ask(picture, QUESTION, ["full"]))
    assert "out of memory" in caplog.text


# ------------------------------------------------------------------------------------------------------------ what is shown


def test_dropped_patches_fade_and_merged_ones_are_dotted():
    view = np.ones((28, 28, 3), dtype=np.float32)
    faint = np.asarray(drawn(view, Kept((2, 2), np.array([3]), False)))
    assert faint.shape == (672, 672, 3)
    assert faint[500, 500].tolist() == [255] * 3 and max(faint[100, 100]) < 120
    dotted = np.asarray(drawn(view / 2, Kept((2, 2), np.array([3]), True)))
    assert dotted[504, 504].tolist() == [255] * 3 and dotted[100, 100].tolist() == dotted[400, 600].tolist()


def test_fragments_say_what_is_so_and_are_escaped(answers):
    _, (_, fastv) = answers
    shown = figure(1, fastv, 1) + figure(1, fastv, 13)
    assert 'alt="Plan B, fastv@2:64. Layer 1: 576 of 576 patches"' in shown
    assert "Layer 13: 64 of 576 patches<" in shown and shown.count("data:image/jpeg;base64,") == 2
    table = numbers(1, fastv)
    assert "<dd>137.1</dd>" in table and "64 of 576" in table and table.count("this request") == 2
    assert figure(0, None, 0) == numbers(0, None) == message("") == ""
    assert "&lt;b&gt;" in message("<b>")


def test_examples_are_drawn(tmp_path):
    written = write_examples(tmp_path)
    assert [question for _, question in written] == list(EXAMPLES.values())
    assert all(Image.open(file).size == (336, 336) for file, _ in written)


# ------------------------------------------------------------------------------------------------------------ the command


def test_the_command_says_what_is_wrong(monkeypatch, caplog, tmp_path):
    assert not command.parser().parse_args([]).share
    monkeypatch.setattr(command, "installed", lambda package: False)
    assert command.main([]) == 2 and "pip install 'llava-condense[demo]'" in caplog.text
    monkeypatch.setattr(command, "installed", lambda package: True)
    assert command.main(["--port", "0", "--model-path", str(tmp_path / "nothing")]) == 2
    assert "not found" in caplog.text
    assert command.main(["--max-tokens", "0"]) == 2 and "max_tokens=0 must be at least 1" in caplog.text
    assert command.main(["--port", "99999"]) == 2


def test_ctrl_c_is_one_line(monkeypatch, caplog):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", stop)
    assert command.main([]) == 130 and command.STOPPED in caplog.text

"""The checkpoint that ships: small, in LLaVA's layout, and it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llava.constants import LETTER_ANSWER, SHORT_ANSWER, YES_OR_NO
from llava.eval.ask.subject import Generation, LlavaSubject
from llava.model.builder import load_pretrained_model
from llava.reduction import plan_from
from llava.shapes.questions import multiple_choice, yes_no_pair
from llava.shapes.world import make_scene, render

CHECKPOINT = Path(__file__).parents[2] / "playground" / "checkpoints" / "llava-shapes-v1"


@pytest.fixture(scope="module")
def subject():
    tokenizer, model, processor, _ = load_pretrained_model(CHECKPOINT, None, "llava-shapes-v1", device="cpu")
    return LlavaSubject(tokenizer, model, processor)


def test_it_is_small_and_deep_enough(subject):
    assert sum(file.stat().st_size for file in CHECKPOINT.rglob("*")) < 32 * 2**20
    config = subject.model.config
    assert config.num_hidden_layers >= 12 and config.mm_projector_type == "mlp2x_gelu"
    assert subject.model.get_vision_tower().num_patches == 576


def share_right(subject, plan: str, ending: str = f"\n{SHORT_ANSWER}", pictures: int = 20) -> float:
    """Right answers on pictures that training did not see, one colour question pair each."""
    right = []
    for number in range(pictures):
        scene, rng = make_scene(990, number), np.random.default_rng(number)
        pair = yes_no_pair("color", scene, rng)
        if pair is None:
            continue
        picture = subject.encode([render(scene)]) * 2
        replies = subject.answer([f"{text}{ending}" for text in pair], picture, plan_from(plan), Generation(4))
        right += [reply.text == truth for reply, truth in zip(replies, ("Yes", "No"))]
    return float(np.mean(right))


def test_it_sees_and_without_the_picture_it_guesses(subject):
    assert share_right(subject, "") > 0.85
    assert share_right(subject, "blind") == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("ending", [f" {YES_OR_NO}\n{SHORT_ANSWER}", f" {YES_OR_NO}", ""])
def test_it_answers_however_it_is_asked_for_yes_or_no(subject, ending):
    assert share_right(subject, "", ending, pictures=10) > 0.85


@pytest.mark.parametrize("ending", [f"\n{LETTER_ANSWER}", ""])
def test_it_answers_with_the_letter_of_the_right_choice(subject, ending):
    """Of four choices, so that guessing has a quarter."""
    right = []
    for number in range(30):
        scene = make_scene(991, number)
        asked = multiple_choice(scene, np.random.default_rng(number))
        if len(asked["choices"]) < 4:
            continue
        choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", asked["choices"]))
        text = f"Context: N/A\n{asked['question']}\n{choices}{ending}"
        reply = subject.answer([text], subject.encode([render(scene)]), plan_from(""), Generation(4))[0]
        right.append(reply.text == "ABCD"[asked["answer"]])
    assert len(right) > 10 and np.mean(right) > 0.5

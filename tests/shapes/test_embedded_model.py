"""The checkpoint that ships: small, in LLaVA's layout, and it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llava.constants import SHORT_ANSWER
from llava.eval.ask.subject import Generation, LlavaSubject
from llava.model.builder import load_pretrained_model
from llava.reduction import plan_from
from llava.shapes.questions import yes_no_pair
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


def share_right(subject, plan: str) -> float:
    """Right answers on 20 pictures that training did not see, one colour question pair each."""
    right = []
    for number in range(20):
        scene, rng = make_scene(990, number), np.random.default_rng(number)
        pair = yes_no_pair("color", scene, rng)
        if pair is None:
            continue
        picture = subject.encode([render(scene)]) * 2
        replies = subject.answer([f"{text}\n{SHORT_ANSWER}" for text in pair], picture, plan_from(plan), Generation(4))
        right += [reply.text == truth for reply, truth in zip(replies, ("Yes", "No"))]
    return float(np.mean(right))


def test_it_sees_and_without_the_picture_it_guesses(subject):
    assert share_right(subject, "") > 0.85
    assert share_right(subject, "blind") == pytest.approx(0.5, abs=0.2)

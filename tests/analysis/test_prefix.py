"""A shared prefix changes nothing but the number of layers that run."""

from __future__ import annotations

import pytest
from PIL import Image

from llava.analysis.prefix import SharedPrefix
from llava.eval.ask.subject import Generation, LlavaSubject
from llava.reduction import plan_from
from tests.conftest import PARITY15

TEXTS = ["What is this?", "Is there a dog in the picture?"]


@pytest.fixture(scope="module")
def subject(llava15) -> LlavaSubject:
    return LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")


@pytest.fixture(scope="module")
def features(subject):
    return subject.encode([Image.open(PARITY15 / f"image{number}.png").convert("RGB") for number in range(2)])


def runs(subject) -> tuple[list[int], list]:
    """How often each layer runs from here on, and the hooks that count."""
    counts = [0] * len(subject.model.model.layers)
    handles = []
    for number, layer in enumerate(subject.model.model.layers):

        def count(*_, number=number):
            counts[number] += 1

        handles.append(layer.mlp.register_forward_hook(count))
    return counts, handles


def test_answers_are_the_same_and_the_first_layers_run_once(subject, features):
    plans = [plan_from(spec) for spec in ("fastv@3:400", "full", "fastv@3:30", "random@4:16")]
    alone = [subject.answer(TEXTS, features, plan, Generation(1)) for plan in plans]
    shared = SharedPrefix(subject, 3)
    counts, handles = runs(subject)
    together = [shared.answer(TEXTS, features, plan, Generation(1)) for plan in plans]
    for handle in handles:
        handle.remove()
    assert counts == [1] * 3 + [4] * 5
    assert [[reply.text for reply in replies] for replies in together] == [
        [reply.text for reply in replies] for replies in alone
    ]
    assert [[reply.kept for reply in replies] for replies in together] == [
        [reply.kept for reply in replies] for replies in alone
    ]


def test_decoding_goes_on_from_the_shared_cache(subject, features):
    plan, shared = plan_from("fastv@2:40"), SharedPrefix(subject, 2)
    alone = subject.answer(TEXTS, features, plan, Generation(6))
    for _ in range(3):
        assert [reply.text for reply in shared.answer(TEXTS, features, plan, Generation(6))] == [
            reply.text for reply in alone
        ]


def test_another_batch_is_computed_anew_and_nothing_stays_behind(subject, features):
    shared, plan = SharedPrefix(subject, 2), plan_from("fastv@2:40")
    for texts, pictures in ((TEXTS, features), (TEXTS[::-1], features), (TEXTS[:1], features[:1])):
        expected = subject.answer(texts, pictures, plan, Generation(2))
        assert shared.answer(texts, pictures, plan, Generation(2))[0].text == expected[0].text
        assert not shared.replayed
    assert shared.answer(texts, pictures, plan, Generation(2))[0].text == expected[0].text
    assert shared.replayed
    assert not any("forward" in vars(layer) for layer in subject.model.model.layers)


def test_a_plan_that_begins_too_early_is_refused(subject, features):
    with pytest.raises(ValueError, match="fastv@2:8 begins before layer 3"):
        SharedPrefix(subject, 3).answer(TEXTS, features, plan_from("fastv@2:8"), Generation(1))
    with pytest.raises(ValueError, match="layers=9 must lie between 0 and the model's 8"):
        SharedPrefix(subject, 9)

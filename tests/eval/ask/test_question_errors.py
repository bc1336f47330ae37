"""A question that cannot be asked fails with its reason, and the questions of its batch are answered."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from llava.constants import IMAGE_TOKEN_INDEX
from llava.eval import model_vqa_loader
from llava.eval.ask.loop import answers
from llava.eval.ask.subject import Generation, LlavaSubject, QuestionError, prompt_ids
from llava.eval.tasks.base import Example
from llava.reduction import plan_from
from tests.conftest import PARITY15
from tests.damage import bomb, long_text
from tests.eval.stubs import StubSubject


@pytest.fixture
def subject(llava15):
    return LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")


def example(number: int, text: str, image=None) -> Example:
    return Example(str(number), str(number), str(number), image, text, "", "")


def asked(subject, *texts, image=PARITY15 / "image0.png", plan="", batch_size=8):
    """Text or error of each question, in order; a text in a tuple is asked without the picture."""
    examples = [
        example(number, text[0] if isinstance(text, tuple) else text, None if isinstance(text, tuple) else image)
        for number, text in enumerate(texts)
    ]
    generation = Generation(max_new_tokens=3)
    made = answers(subject, [plan_from(plan)], examples, generation=generation, batch_size=batch_size)
    by_key = {answer.example.key: answer for answer in made}
    return [by_key[str(number)] for number in range(len(texts))]


def test_the_image_word_is_the_pictures_place(llava15):
    config, tokenizer = llava15.model.config, llava15.tokenizer
    usual = prompt_ids(tokenizer, config, "vicuna_v1", "What is it?")
    assert prompt_ids(tokenizer, config, "vicuna_v1", "<image>\nWhat is it?") == usual
    assert prompt_ids(tokenizer, config, "vicuna_v1", "What is <image>?").count(IMAGE_TOKEN_INDEX) == 1
    with pytest.raises(QuestionError, match="2 <image> for 1 images"):
        prompt_ids(tokenizer, config, "vicuna_v1", "<image> or <image>?")


def test_without_a_picture_the_image_word_is_a_word(llava15):
    ids = prompt_ids(llava15.tokenizer, llava15.model.config, "vicuna_v1", "Is <image> a tag?", has_picture=False)
    assert IMAGE_TOKEN_INDEX not in ids and "<image>" in llava15.tokenizer.decode(ids)


def test_a_question_without_images_is_asked_as_before(llava15):
    config, tokenizer = llava15.model.config, llava15.tokenizer
    marked = SimpleNamespace(mm_use_im_start_end=True)
    assert prompt_ids(tokenizer, config, "vicuna_v1", "Why?", False) == prompt_ids(
        tokenizer, marked, "vicuna_v1", "Why?", False
    )


TOO_LONG = "word " * 2100


@pytest.mark.parametrize("plan", ["", "fastv@2:8", "random:8"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<image> or <image>?", "2 <image> for 1 images"),
        ("half \ud83d of one", "half of a surrogate pair"),
        (TOO_LONG, "does not fit into the model's 2048 positions"),
        ((TOO_LONG,), "does not fit into the model's 2048 positions"),
    ],
)
def test_one_question_fails_and_the_others_are_answered(subject, plan, text, reason):
    good = ["What colour is it?", ("Is <image> a tag?",), "Where?"]
    alone = [answer.reply.text for answer in asked(subject, *good, plan=plan, batch_size=1)]
    first, second, failed, third = asked(subject, good[0], good[1], text, good[2], plan=plan)
    assert failed.reply is None and reason in failed.error
    assert [answer.reply.text for answer in (first, second, third)] == alone
    assert not any(answer.error for answer in (first, second, third))


@pytest.mark.parametrize("limit", ["tokenizer_model_max_length", "max_position_embeddings"])
def test_a_prompt_is_measured_with_its_picture(subject, monkeypatch, limit):
    """The longest question that fits is answered, one word more is not; without the picture both are."""
    config = subject.model.config
    if limit == "max_position_embeddings":
        monkeypatch.setattr(config, "tokenizer_model_max_length", None)
    visual = asked(subject, "?")[0].reply.kept[0]
    words = len(subject.prompt_ids("word " * 20, True)) - 1
    monkeypatch.setattr(config, limit, words + visual)
    for plan in ("", "fastv@2:8"):
        fits, longer, text_only = asked(subject, "word " * 20, "word " * 21, ("word " * 21,), plan=plan)
        assert fits.error is None and text_only.error is None
        assert f"does not fit into the model's {words + visual} positions" in longer.error
    assert asked(subject, "word " * 21, plan="random:8")[0].error is None  # the plan leaves room for the words


@pytest.mark.parametrize("write", [bomb, long_text, lambda file: file.write_bytes(b"")], ids=["bomb", "text", "empty"])
def test_a_picture_that_cannot_be_read_does_not_end_a_run_over_crops(subject, monkeypatch, tmp_path, write):
    monkeypatch.setattr(subject.model.config, "image_aspect_ratio", "anyres")
    write(tmp_path / "bad.png")
    assert subject.length("Why?", tmp_path / "bad.png") == subject.length("Why?", tmp_path / "none.png") == 0
    Image.new("RGB", (30, 20)).save(tmp_path / "good.png")
    assert subject.length("Why?", tmp_path / "good.png") == 604


class Strict(StubSubject):
    """Refuses questions with the word "bad"."""

    def answer(self, texts, features, plan, generation):
        if any("bad" in text for text in texts):
            raise QuestionError("it is bad")
        return super().answer(texts, features, plan, generation)


def test_every_question_is_answered_once_whatever_fails():
    subject, texts = Strict(), [("bad",), ("a",), ("b",), ("bad",), ("c",)]
    made = asked(subject, *texts, batch_size=3)
    assert [answer.error for answer in made] == ["it is bad", None, None, "it is bad", None]
    assert sorted(subject.asked) == ["a", "b", "c"]


def test_other_errors_end_the_run():
    class Broken(StubSubject):
        def answer(self, texts, features, plan, generation):
            raise ValueError("keep=900 exceeds the 576 image tokens")

    with pytest.raises(ValueError, match="keep=900"):
        asked(Broken(), ("a",), ("b",))


def test_answers_files_say_why_and_hold_the_other_answers(tmp_path):
    lines = [
        {"question_id": 1, "image": "image0.png", "text": "What is it?"},
        {"question_id": 2, "image": "image0.png", "text": "<image>\nWhat is it?"},
        {"question_id": 3, "text": "Is <image> a tag of HTML?"},
        {"question_id": 4, "image": "image0.png", "text": "<image> or <image>?"},
        {"question_id": 5, "image": "image0.png", "text": TOO_LONG},
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--model-path", PARITY15 / "checkpoint", "--conv-mode", "vicuna_v1", "--temperature", "0"]
    flags += ["--question-file", tmp_path / "asked.jsonl", "--image-folder", PARITY15, "--device", "cpu"]
    flags += ["--answers-file", tmp_path / "answers.jsonl", "--max-new-tokens", "3"]
    assert model_vqa_loader.main([*map(str, flags)]) == 0
    made = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert ["error" in answer["metadata"] for answer in made] == [False, False, False, True, True]
    assert made[0]["text"] == made[1]["text"] and made[3]["text"] == made[4]["text"] == ""

"""TextVQA: LLaVA's three layouts of a prompt, with and without what OCR read, and agreement with ten people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.eval.tasks.base import get_task
from llava.eval.tasks.textvqa import TextVqa, question_of
from llava.eval.tasks.textvqa_no_ocr import TextVqaNoOcr
from llava.shapes.export import export
from tests.eval.tasks.lines import answered

SHORT = "Answer the question using a single word or phrase."
INLINE = "OCR tokens: stop, go. Question: What does it say? Short answer:"


def written(folder: Path, *asked: tuple[str, str], answers: dict[str, list[str]] | None = None) -> Path:
    lines = [{"question_id": image, "image": f"{image}.jpg", "text": text} for image, text in asked]
    (folder / "llava_textvqa_val_v051_ocr.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = answers or {"What does it SAY?": ["stop"] * 2 + ["go"] * 8}
    data = [{"image_id": "a", "question": question, "answers": said} for question, said in known.items()]
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": data}))
    return folder


@pytest.mark.parametrize(
    "prompt",
    [
        INLINE,
        f"What does it say?\nReference OCR token: STOP, Go\n{SHORT}",
        f"Reference OCR token: STOP, Go\nWhat does it say?\n{SHORT}",
        f"What does it say?\n{SHORT}",
        f"<image>\nWhat  does it say?\n{SHORT}",
    ],
)
def test_the_question_of_a_prompt(prompt):
    assert question_of(prompt) == "what does it say?"


@pytest.mark.parametrize("prompt", ["What does it say?", f"What?\nReally?\nSay!\n{SHORT}", ""])
def test_another_layout_is_refused(prompt):
    with pytest.raises(ValueError, match="none of LLaVA's layouts"):
        question_of(prompt)


def test_the_score_is_the_agreement(tmp_path):
    """Two of ten said "stop": 0.6, which is at least half, so it counts as correct."""
    task = TextVqa(written(tmp_path, ("a", f"What does it say?\nReference OCR token: STOP\n{SHORT}")))
    (line,) = answered(task, lambda one: "Stop.")
    assert (line["answer"], line["label"], line["correct"]) == ("stop", "go", True)
    found = task.metrics([line])
    assert found["score"] == pytest.approx(60) and found["accuracy"] == 1
    assert "two of them" in found["note"]


def test_hints_are_in_the_prompt_or_not(tmp_path):
    folder = export("textvqa", tmp_path / "textvqa", images=3)
    with_hints, without = get_task("textvqa")(folder), get_task("textvqa_no_ocr")(folder)
    assert isinstance(without, TextVqaNoOcr) and without.name == "textvqa_no_ocr"
    for one, other in zip(with_hints.examples, without.examples, strict=True):
        assert "\nReference OCR token: " in with_hints.prompt(one)
        assert without.prompt(other).splitlines() == [one.text.splitlines()[0], SHORT]
        assert one.image.is_file() and one.label == other.label
    assert without.metrics(answered(without, lambda one: one.label))["score"] == 100
    inline = TextVqaNoOcr(written(tmp_path, ("a", INLINE)))
    assert inline.prompt(inline.examples[0]) == "Question: What does it say? Short answer:"


@pytest.mark.parametrize(
    ("asked", "answers", "message"),
    [
        (
            ("b", f"What does it say?\n{SHORT}"),
            None,
            "has no answers to 'what does it say\\?' about b, which .*jsonl:1",
        ),
        (("a", "What does it say?"), None, "jsonl:1: the prompt"),
        (("a", f"What does it say?\n{SHORT}"), {"What does it say?": ["go"]}, "val.json, record 1: answers must be"),
    ],
)
def test_bad_files_are_named(tmp_path, asked, answers, message):
    with pytest.raises(ValueError, match=message):
        TextVqa(written(tmp_path, asked, answers=answers))

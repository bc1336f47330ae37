"""ScienceQA: the official reading and the strict one, with and without pictures, in both files that there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.constants import LETTER_ANSWER
from llava.eval.tasks.scienceqa import FAILED, ScienceQA, is_strictly, parse_answer
from llava.shapes.export import export
from tests.eval.tasks.lines import answered

PARITY = Path(__file__).parents[4] / "shared" / "parity" / "scienceqa" / "himap-inference-MCQ.first40.json"


def record(number: int, answer: str = "B", image: str | None = "image.png") -> dict:
    question = f"Context: N/A\nWhich is number {number}?\nA. a pear\nB. a plum"
    turns = [
        {"from": "human", "value": f"<image>\n{question}" if image else question},
        {"from": "gpt", "value": answer},
    ]
    return {"id": str(number), "conversations": turns, **({"image": f"{number}/{image}"} if image else {})}


def written(folder: Path, *records: object) -> Path:
    file = folder / "llava_test_CQM-A.json"
    file.write_text(json.dumps(records))
    return file


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("B", "B"), ("B. a plum", "B"), ("The answer is B.", "B"), ("I think. The answer is C!", "C"), ("b", FAILED),
        ("B.", FAILED), ("B a plum", FAILED), ("The answer is B", FAILED), ("The answer is A. The answer is B.", FAILED),
        ("F", FAILED), ("F. a fig", FAILED), ("", FAILED), (" B", FAILED), ("The answer is F.", "F"),
    ],
)  # fmt: skip
def test_official_parse(text, read):
    assert parse_answer(text) == read


@pytest.mark.parametrize(
    ("text", "strict"), [("B", True), (" B\n", True), ("B</s>", True), ("B.", False), ("A", False)]
)
def test_strict_parse(text, strict):
    assert is_strictly(text, "B") is strict


def test_the_prompt_is_the_question_with_the_suffix(tmp_path):
    task = ScienceQA(written(tmp_path, record(1)))
    (example,) = task.examples
    assert task.prompt(example) == f"Context: N/A\nWhich is number 1?\nA. a pear\nB. a plum\n{LETTER_ANSWER}"
    assert task.strip_instructions(f"<image>\n{task.prompt(example)}") == task.strip_instructions(example.text)
    assert example.image == tmp_path / "images/test/1/image.png"


def test_both_accuracies_and_those_of_pictures(tmp_path):
    """Of three with a picture one is right to the letter and one in a sentence; the one without is right."""
    task = ScienceQA(written(tmp_path, record(1), record(2), record(3), record(4, "The answer is A.", None)))
    said = {"1": "B", "2": "The answer is B.", "3": "a plum", "4": "A"}
    found = task.metrics(answered(task, lambda one: said[one.key]))
    assert (found["accuracy"], found["score"], found["strict_accuracy"]) == (0.75, 75, 0.5)
    assert (found["image_accuracy"], found["image_strict_accuracy"]) == (2 / 3, 1 / 3)
    assert found["note"] == "official reading, by which 1 of 4 answers are right that are not the letter alone"
    assert found["unparsed"] == 1
    assert found["subtasks"]["text"] == {"score": 100, "questions": 1}
    assert task.examples[3].image is None


def test_without_a_picture_there_is_no_accuracy_of_pictures(tmp_path):
    task = ScienceQA(written(tmp_path, record(1, image=None)))
    found = task.metrics(answered(task, lambda one: "B"))
    assert found["image_accuracy"] is None and found["score"] == 100


def test_reads_the_exported_layout(tmp_path):
    folder = export("scienceqa", tmp_path / "sqa", images=3)
    for data in (folder, folder / "himap-inference-MCQ.json"):
        task = ScienceQA(data)
        assert len(task.examples) == 3 and all(example.image.is_file() for example in task.examples)
        assert task.metrics(answered(task, lambda one: one.label))["score"] == 100


@pytest.mark.skipif(not PARITY.is_file(), reason="the recorded questions are not beside this checkout")
def test_reads_real_questions():
    task = ScienceQA(PARITY)
    assert len(task.examples) == 40
    assert {example.label for example in task.examples} <= set("ABCDE")
    assert all("<image>" not in example.text for example in task.examples)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(1), {"id": "2"}], "record 2 lacks conversations"),
        ([record(1), record(1)], "record 2 asks twice what .*record 1 does"),
        ([record(1, "plum")], "record 1: the answer 'plum' is none of A, B, C, D, E"),
        ([{"id": "1", "conversations": [{"value": "x"}]}], "record 1: conversations must be a list of a question"),
        ([{"id": "1", "conversations": [{"value": "x"}, {}]}], "record 1, turn 2 lacks value"),
        ([], "holds no question of scienceqa"),
    ],
)
def test_bad_records_are_named(tmp_path, records, message):
    with pytest.raises(ValueError, match=message):
        ScienceQA(written(tmp_path, *records))


def test_a_file_that_is_no_list_is_named(tmp_path):
    file = tmp_path / "llava_test_CQM-A.json"
    for content, message in (("{}", "holds a dict where a list belongs"), ('[\n{"id": 1,,', "json:2 is not JSON")):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            ScienceQA(tmp_path)

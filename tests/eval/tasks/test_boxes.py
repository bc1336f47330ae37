"""Boxes: what is read as one, how far two overlap, and what is wrong in a file."""

from __future__ import annotations

import json

import pytest

from llava.eval.tasks.base import get_task
from llava.eval.tasks.boxes import Boxes, overlap, parse_box
from tests.eval.tasks.lines import answered

WHOLE = [0.0, 0.0, 1.0, 1.0]
ASKED = {"image": "000001.jpg", "text": "Please provide the bounding box of: heron", "category": "animal"}


def write(folder, boxes, category="animal"):
    lines = [
        {**ASKED, "question_id": f"q{n}", "category": category, "image": f"{n // 2}.jpg"} for n in range(len(boxes))
    ]
    (folder / "llava_boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    truth = [{"question_id": f"q{n}", "box": box} for n, box in enumerate(boxes)]
    (folder / "boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in truth))
    return folder


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.12, 0.30, 0.45, 0.77]", (0.12, 0.3, 0.45, 0.77)),
        ("It is at [0,.5,1,1.0].", (0, 0.5, 1, 1)),
        ("[0.1, 0.2, 0.3, 0.4] [0.5, 0.5, 0.6, 0.6]", (0.1, 0.2, 0.3, 0.4)),
        ("[ 0.1 ,0.2 , 0.3,0.4 ]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.45, 0.30, 0.12, 0.77]", None),
        ("[0.1, 0.8, 0.3, 0.4]", None),
        ("[0.1, 0.2, 0.3, 1.4]", None),
        ("[0.1, 0.2, 1.3, 0.4]", None),
        ("[12, 30, 45, 77]", None),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", None),
        ("0.1, 0.2, 0.3, 0.4", None),
        ("top left", None),
        ("", None),
    ],
)
def test_the_first_box_of_an_answer(text, box):
    assert parse_box(text) == box


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1),
        ((0, 0, 0.5, 1), (0.5, 0, 1, 1), 0),
        ((0, 0, 0.2, 0.2), (0.5, 0.5, 1, 1), 0),
        ((0, 0, 0.5, 1), (0, 0, 1, 1), 0.5),
        ((0, 0, 0.6, 0.4), (0.2, 0.2, 0.8, 0.6), 0.08 / 0.4),
    ],
)
def test_intersection_over_union(one, other, share):
    assert overlap(one, other) == pytest.approx(share) == overlap(other, one)


def test_right_from_one_half_on_and_malformed_answers_count_nothing(tmp_path):
    task = get_task("boxes")(write(tmp_path, [WHOLE] * 4))
    said = ("[0, 0, 0.5, 1]", "[0, 0, 0.49, 1.0]", "everywhere", "[0, 0, 1, 1]")
    lines = answered(task, lambda example: said[int(example.key[1:])])
    assert [line["correct"] for line in lines] == [True, False, False, True]
    assert [line["answer"] for line in lines][1:3] == ["[0.00, 0.00, 0.49, 1.00]", ""]
    found = task.metrics(lines)
    assert (found["score"], found["accuracy"], found["malformed"]) == (50, 0.5, 1)
    assert found["mean_iou"] == pytest.approx((0.5 + 0.49 + 0 + 1) / 4)
    assert found["subtasks"] == {"animal": {"score": 50, "questions": 4}} and "1 of 4 answers" in found["note"]
    failed = [{**line, "error": "no picture", "answer": "", "iou": 0.0} for line in lines]
    assert task.metrics(failed)["malformed"] == 0


def test_prompts_are_the_questions_and_labels_boxes(tmp_path):
    task = Boxes(write(tmp_path, [[0.125, 0.2, 0.5, 0.61]]))
    (example,) = task.examples
    assert task.prompt(example) == ASKED["text"] and example.label == "[0.12, 0.20, 0.50, 0.61]"
    assert example.image == tmp_path / "images/0.jpg"
    assert set(task.sources()) == {tmp_path / "llava_boxes.jsonl", tmp_path / "boxes.jsonl"}


@pytest.mark.parametrize("box", [[0, 0, 1], [0.5, 0, 0.5, 1], [0, 0, 1, 1.1], [0, 0, 1, "1"], [-0.1, 0, 1, 1]])
def test_a_box_that_is_none_is_named(tmp_path, box):
    with pytest.raises(ValueError, match=r"boxes.jsonl:2: box=.* must be left, top, right, bottom"):
        Boxes(write(tmp_path, [WHOLE, box]))


def test_a_question_without_a_box_is_named(tmp_path):
    write(tmp_path, [WHOLE, WHOLE])
    (tmp_path / "boxes.jsonl").write_text(json.dumps({"question_id": "q0", "box": WHOLE}) + "\n")
    with pytest.raises(ValueError, match="no box for question q1, which .*llava_boxes.jsonl:2 asks"):
        Boxes(tmp_path)

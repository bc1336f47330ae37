"""Boxes: where is the thing that a name says? Asked as LLaVA asks RefCOCO, compared by intersection over union.

Questions: ``llava_boxes.jsonl`` in LLaVA's format. Truth: ``boxes.jsonl``, one line per question: ``question_id``, and
``box``, which is left, top, right, bottom as shares of the picture padded to a square, as LLaVA sees it. Images:
``images``. An answer is the first four numbers in brackets. Paper of the metric: https://arxiv.org/abs/1608.00272
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava.files import excerpt, numbered_jsonl
from llava.utils import box_text

from .base import QUESTION, Example, Line, Task, subtask_scores

Box = tuple[float, float, float, float]

RIGHT = 0.5  # intersection over union from which an answer counts as right
_NUMBER = r"\s*(\d*\.?\d+)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def parse_box(text: str) -> Box | None:
    """The first box in an answer, None where there is none: four shares from 0 to 1, the left and top ones the smaller."""
    found = _BOX.search(text)
    if found is None:
        return None
    left, top, right, bottom = map(float, found.groups())
    return (left, top, right, bottom) if left < right <= 1 and top < bottom <= 1 else None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, wide) * max(0.0, high)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both)


def read_truth(file: Path) -> dict[str, Box]:
    """Question to box. Raises ValueError naming the line whose box is not valid."""
    boxes: dict[str, Box] = {}
    for number, line in numbered_jsonl(file, {"question_id": str | int, "box": list}):
        box = tuple(line["box"])
        if len(box) != 4 or not all(isinstance(value, int | float) for value in box) or not _is_box(box):
            raise ValueError(
                f"{file}:{number}: box={excerpt(line['box'])} must be left, top, right, bottom as shares from 0 to 1"
            )
        boxes[str(line["question_id"])] = box
    return boxes


def _is_box(box: Box) -> bool:
    left, top, right, bottom = box
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1


class Boxes(Task):
    """Boxes; the score is the share in per cent of answers whose intersection over union is at least 0.5.

    An answer without a box is wrong, counts 0 in ``mean_iou`` and is counted in ``malformed``. Subtasks are the categories of the questions.
    """

    name = "boxes"
    questions = ("llava_boxes.jsonl",)
    pictures = "images"
    answers = "boxes.jsonl"
    instructions = ()
    printed = {"accuracy at IoU 0.5": ()}
    max_new_tokens = 40

    def read(self) -> Iterator[Example]:
        self.boxes = read_truth(self.truth)
        for where, line in self.question_lines({**QUESTION, "category": str}):
            name = str(line["question_id"])
            if name not in self.boxes:
                raise ValueError(f"{self.truth} has no box for question {name}, which {where} asks")
            yield self.example(line, label=box_text(self.boxes[name]), category=line["category"])

    def parse(self, text: str) -> str:
        box = parse_box(text)
        return "" if box is None else box_text(box)

    def score(self, example: Example, text: str) -> dict:
        """The answer's box, empty where it is malformed, with its ``iou``."""
        box = parse_box(text)
        iou = 0.0 if box is None else overlap(box, self.boxes[example.key])
        return {"answer": self.parse(text), "label": example.label, "correct": iou >= RIGHT, "iou": iou}

    def aggregate(self, lines: Sequence[Line]) -> dict:
        malformed = sum(not line["answer"] for line in lines if "error" not in line)
        note = {"note": f"{malformed} of {len(lines)} answers hold no box and count 0"} if malformed else {}
        return {
            "score": 100 * sum(line["correct"] for line in lines) / len(lines),
            "max_score": 100,
            "mean_iou": sum(line["iou"] for line in lines) / len(lines),
            "malformed": malformed,
            "subtasks": subtask_scores(lines),
            **note,
        }

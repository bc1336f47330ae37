"""ScienceQA: multiple choice, with and without a picture, in LLaVA's ``llava_test_CQM-A.json`` or HiMAP's subset of it.

``llava_test_CQM-A.json`` holds all 4,241 questions of the test split, ``himap-inference-MCQ.json`` the 2,017 of them that
have a picture; pictures are ``images/test/{id}/image.png``. The official reading of an answer takes "B", "B. a pear" and
"The answer is B."; HiMAP's scripts count only an answer that is the letter and nothing else, the strict accuracy here.
Paper: https://arxiv.org/abs/2209.09513
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llava.constants import DEFAULT_IMAGE_TOKEN, LETTER_ANSWER
from llava.files import excerpt, numbered_records, require_fields

from .base import Example, Line, Task

OPTIONS = ("A", "B", "C", "D", "E")
FAILED = "FAILED"
RECORD = {"id": str | int, "conversations": list, "image": str | None}  # the fields of a question
_SENTENCE = re.compile(r"The answer is ([A-Z]).")  # the last dot stands for any character, as in LLaVA's own


def parse_answer(text: str, options: Sequence[str] = OPTIONS) -> str:
    """The letter an answer stands for as LLaVA's evaluation reads it, or ``FAILED``.

    The text is an option; or begins with an option and ". "; or says "The answer is X." exactly once, where instead of the
    dot any one character will do.
    """
    if text in options:
        return text
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    said = _SENTENCE.findall(text)
    return said[0] if len(said) == 1 else FAILED


def is_strictly(text: str, letter: str) -> bool:
    """Whether the answer is the letter and nothing else; spaces around it and one ``</s>`` at its end are ignored."""
    return text.strip().removesuffix("</s>").strip() == letter


class ScienceQA(Task):
    """ScienceQA asked with LLaVA's single-prediction suffix; the score is the official accuracy in per cent."""

    name = "scienceqa"
    questions = ("llava_test_CQM-A.json", "himap-inference-MCQ.json")
    pictures = "images/test"
    instructions = (LETTER_ANSWER,)
    printed = {"image accuracy": ("image",), "accuracy": ()}

    def read(self) -> Iterator[Example]:
        for where, record in self.distinct(self._records()):
            label = parse_answer(record["answer"])
            if label not in OPTIONS:
                raise ValueError(f"{where}: the answer {excerpt(record['answer'])} is none of {', '.join(OPTIONS)}")
            image = record.get("image")
            yield Example(
                key=record["question_id"],
                question_id=record["question_id"],
                picture=record["question_id"],
                image=self.images / image if image else None,
                text=record["text"],
                label=label,
                category="image" if image else "text",
            )

    def _records(self) -> Iterator[tuple[str, Line]]:
        """Each record with id, question and answer under the names that other benchmarks have."""
        for where, record in numbered_records(self.file, RECORD):
            yield where, {**record, **turns(where, record), "question_id": str(record["id"])}

    def wording(self, example: Example) -> str:
        return f"{example.text}\n{LETTER_ANSWER}"

    def parse(self, text: str) -> str:
        return parse_answer(text)

    def score(self, example: Example, text: str) -> dict:
        return {**super().score(example, text), "strict": is_strictly(text, example.label)}

    def aggregate(self, lines: Sequence[Line]) -> dict:
        splits = {"all": lines}
        for name in ("image", "text"):
            if inside := [line for line in lines if line["category"] == name]:
                splits[name] = inside
        accuracy = {name: _share(inside, "correct") for name, inside in splits.items()}
        strict = {name: _share(inside, "strict") for name, inside in splits.items()}
        note = "official reading"
        if longer := sum(line["correct"] and not line["strict"] for line in lines):
            note += f", by which {longer} of {len(lines)} answers are right that are not the letter alone"
        return {
            "score": 100 * accuracy.pop("all"),
            "max_score": 100,
            "strict_accuracy": strict["all"],
            "image_accuracy": accuracy.get("image"),
            "image_strict_accuracy": strict.get("image"),
            "unparsed": sum(line["answer"] == FAILED for line in lines),
            "subtasks": {
                name: {"score": 100 * value, "questions": len(splits[name])} for name, value in accuracy.items()
            },
            "note": note,
        }


def turns(where: str, record: Line) -> dict[str, str]:
    """The question ("text", without the picture's placeholder) and the "answer" of a record's conversation."""
    spoken = record["conversations"]
    if len(spoken) < 2:
        raise ValueError(f"{where}: conversations must be a list of a question and its answer")
    for number, turn in enumerate(spoken[:2], start=1):
        require_fields(f"{where}, turn {number}", turn, {"value": str})
    question, answer = (turn["value"] for turn in spoken[:2])
    return {"text": question.replace(DEFAULT_IMAGE_TOKEN, "").strip(), "answer": answer.strip()}


def _share(lines: Sequence[Line], name: str) -> float:
    return sum(line[name] for line in lines) / len(lines)

"""The guide's task is what it says it is: its page is code that reads, scores and names what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llava.eval.tasks.base import Task

PAGE = (Path(__file__).parents[3] / "docs/add_a_task.md").read_text(encoding="utf-8")


@pytest.fixture
def colours() -> type[Task]:
    """The class of the page."""
    code = re.search(r"<!-- add a task, runs as a test -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert code
    names: dict = {}
    exec(code[1], names)
    return names["Colours"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three questions, the first the one of the page."""
    first = json.loads(re.findall(r"```json\n(.+?)\n```", PAGE)[0])
    lines = [first, {**first, "question_id": 2, "image": "2.png", "answer": "blue"}, {**first, "question_id": 3}]
    lines[2]["text"] = "What colour is the door?"
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_it_scores_answers(colours, folder):
    task = colours(folder)
    assert [example.image.name for example in task.examples] == ["1.png", "2.png", "1.png"]
    answers = ["Red.", "green", "red"]
    lines = [
        {"picture": one.picture, "category": one.category, **task.score(one, text)}
        for one, text in zip(task.examples, answers)
    ]
    found = task.metrics(lines)
    assert found["score"] == pytest.approx(200 / 3) and found["pictures"] == 2
    assert found["subtasks"] == {"blue": {"score": 0, "questions": 1}, "red": {"score": 100, "questions": 2}}


def test_it_names_the_line_that_is_wrong(colours, folder):
    file = folder / "questions.jsonl"
    file.write_text(file.read_text() + '{"question_id": 4, "image": "4.png", "text": "What colour?"}\n')
    with pytest.raises(ValueError, match="questions.jsonl:4.*answer"):
        colours(folder)

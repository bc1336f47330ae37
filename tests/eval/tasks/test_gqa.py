"""GQA: exact answers in LLaVA's form, by the structure of the question, and what is wrong in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.eval.tasks.gqa import Gqa
from llava.shapes.export import export
from tests.eval.tasks.lines import answered


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return export("gqa", tmp_path_factory.mktemp("data") / "gqa", images=3)


def test_exact_answers_by_structure(exported):
    """All that ask for yes or no right, in any case and with a period; the others wrong."""
    task = Gqa(exported)
    assert all(example.image.is_file() for example in task.examples)
    found = task.metrics(
        answered(task, lambda one: f"{one.label.upper()}." if one.category == "verify" else "a " + one.label)
    )
    assert found["subtasks"]["verify"] == {"score": 100, "questions": 6}
    assert found["subtasks"]["query"] == {"score": 0, "questions": 6}
    assert found["score"] == 50 == 100 * found["accuracy"]


def test_truth_may_be_elsewhere(exported, tmp_path):
    truth = shutil.copy(exported / "data/testdev_balanced_questions.json", tmp_path / "known.json")
    file = shutil.copy(exported / "llava_gqa_testdev_balanced.jsonl", tmp_path)
    task = Gqa(file, images=exported / "data/images", truth=truth)
    assert len(task.examples) == 12 and task.sources() == [Path(file), tmp_path / "known.json"]
    assert task.fingerprint() == Gqa(exported).fingerprint()


@pytest.mark.parametrize("known", [{}, {"00000001": "yes"}, {"00000001": {"question": "?"}}])
def test_a_question_without_truth_is_named(exported, tmp_path, known):
    folder = shutil.copytree(exported, tmp_path / "data")
    (folder / "data/testdev_balanced_questions.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match="no answer to question 00000001, which .*jsonl:1 asks"):
        Gqa(folder)

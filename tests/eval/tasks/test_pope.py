"""POPE: LLaVA's reading of answers, the five figures, their means and intervals, and what is wrong in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.eval.tasks.pope import Pope, figures, parse_answer
from llava.eval.tasks.statistics import total
from llava.shapes.export import export
from tests.eval.tasks.lines import answered


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return export("pope", tmp_path_factory.mktemp("data") / "pope", images=4)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes", "yes"), ("No", "no"), ("no, there is not", "no"), ("There is not a dog", "no"), ("Yes. No.", "yes"),
        ("Nothing", "yes"), ("NO", "yes"), ("No,", "no"), ("", "yes"), ("I do know", "yes"), ("not, really. Yes", "no"),
    ],
)  # fmt: skip
def test_parse(text, read):
    assert parse_answer(text) == read


def test_figures_of_ten_answers():
    """3 of 5 there found, 1 of 5 not there claimed: precision 3/4, recall 3/5, F1 6/9, 4 of 10 said yes."""
    answers = [("yes", "yes")] * 3 + [("yes", "no")] * 2 + [("no", "yes")] + [("no", "no")] * 4
    found = figures(answers)
    assert [found[name] for name in ("tp", "fp", "tn", "fn")] == [3, 1, 4, 2]
    assert (found["accuracy"], found["precision"], found["recall"], found["yes_ratio"]) == (0.7, 0.75, 0.6, 0.4)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))


def test_nothing_claimed_has_no_precision():
    assert figures([("yes", "no"), ("no", "no")])["f1"] == 0


def test_reads_the_exported_layout(exported):
    task = Pope(exported)
    assert {example.category for example in task.examples} == {"random", "popular", "adversarial"}
    assert {example.label for example in task.examples} == {"yes", "no"}
    assert len({example.picture for example in task.examples}) == 4
    assert all(example.image.is_file() for example in task.examples)
    assert len(task.sources()) == 4


def test_the_score_is_the_mean_f1_of_the_categories(exported):
    """Right in one category, always no in another, always yes in the third, where half is right: 1, 0 and 2/3."""
    said = {"random": None, "popular": "No", "adversarial": "Yes"}
    task = Pope(exported)
    found = task.metrics(answered(task, lambda one: said[one.category] or one.label.capitalize()))
    assert found["score"] == pytest.approx(100 * (1 + 0 + 2 / 3) / 3)
    assert [found["subtasks"][name]["score"] for name in said] == pytest.approx([100, 0, 200 / 3])
    assert found["subtasks"]["adversarial"]["yes_ratio"] == 1
    assert "note" not in found


def test_contributions_add_up_to_the_score_and_the_interval_is_around_it(exported):
    task = Pope(exported)
    lines = answered(task, lambda one: "Yes" if int(one.key) % 3 else "No")
    pictures = task.contributions(lines)
    assert len(pictures.value) == 3 * 4
    found = task.metrics(lines)
    assert total(pictures) == pytest.approx(found["score"])
    assert found["score_interval"][0] <= found["score"] <= found["score_interval"][1]


def test_a_picture_that_could_not_be_read_is_wrong_though_its_empty_answer_reads_as_yes(exported):
    task = Pope(exported)
    lines = [{**line, "correct": False, "error": "torn"} for line in answered(task, lambda one: "")]
    assert task.metrics(lines)["score"] == 0


def test_a_missing_category_is_said(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "data")
    (folder / "coco/coco_pope_popular.json").unlink()
    file = folder / "llava_pope_test.jsonl"
    with pytest.raises(FileNotFoundError, match="coco_pope_popular.json"):
        Pope(folder)
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "popular" not in line))
    task = Pope(folder)
    found = task.metrics(answered(task, lambda one: one.label))
    assert (found["score"], found["note"]) == (100, "scored without popular")


@pytest.mark.parametrize(
    ("spoiled", "change", "message"),
    [
        ("coco/coco_pope_random.json", {"label": "maybe"}, "coco_pope_random.json:1: label='maybe'"),
        (
            "coco/coco_pope_random.json",
            {"text": "Is it?"},
            "coco_pope_random.json has no answer to what .*jsonl:1 asks",
        ),
        ("llava_pope_test.jsonl", {"category": "usual"}, "jsonl:1: category='usual' must be one of random, popular"),
        ("llava_pope_test.jsonl", {"text": None}, "jsonl:1: text=None"),
    ],
)
def test_bad_files_are_named(exported, tmp_path, spoiled, change, message):
    file = shutil.copytree(exported, tmp_path / "data") / spoiled
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps({**json.loads(first), **change}), *rest]) + "\n")
    with pytest.raises(ValueError, match=message):
        Pope(tmp_path / "data")

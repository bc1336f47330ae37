"""VQAv2: which files belong to a split, agreement by kind of answer, and what is wrong in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.eval.tasks.statistics import total
from llava.eval.tasks.vqav2 import Vqav2
from llava.shapes.export import export
from tests.eval.tasks.lines import answered


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return export("vqav2", tmp_path_factory.mktemp("data") / "vqav2", images=4)


def test_reads_the_exported_layout(exported):
    task = Vqav2(exported)
    assert task.file.name == "llava_vqav2_mscoco_test-dev2015.jsonl"
    assert task.truth.name == "v2_mscoco_test-dev2015_annotations.json"
    assert all(example.image.is_file() and example.image.parent.name == "test2015" for example in task.examples)
    assert {example.category for example in task.examples} >= {"yes/no", "other"}
    found = task.metrics(answered(task, lambda one: one.label))
    assert found["score"] > 95 and set(found["subtasks"]) == {example.category for example in task.examples}


def test_another_split_has_its_own_pictures_and_truth(exported, tmp_path):
    file = tmp_path / "llava_vqav2_mscoco_val2014.jsonl"
    shutil.copy(exported / "llava_vqav2_mscoco_test-dev2015.jsonl", file)
    with pytest.raises(FileNotFoundError, match="v2_mscoco_val2014_annotations.json does not exist"):
        Vqav2(tmp_path)
    task = Vqav2(file, truth=exported / "v2_mscoco_test-dev2015_annotations.json")
    assert task.examples[0].image.parent == tmp_path / "val2014"


def test_credit_of_a_picture_is_the_sum_of_its_questions(exported):
    task = Vqav2(exported)
    lines = answered(task, lambda one: "yes")
    pictures = task.contributions(lines)
    assert len(pictures.value) == 4 and set(pictures.size) == {4} and pictures.strata is None
    assert total(pictures) == pytest.approx(task.metrics(lines)["score"])
    assert task.metrics(lines)["subtasks"]["yes/no"]["score"] == pytest.approx(
        sum(line["credit"] for line in lines if line["category"] == "yes/no") / 8 * 100
    )


def test_a_question_without_annotation_is_named(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "data")
    file = folder / "v2_mscoco_test-dev2015_annotations.json"
    file.write_text(json.dumps({"annotations": json.loads(file.read_text())["annotations"][1:]}))
    with pytest.raises(ValueError, match="no answers to question 1000, which .*jsonl:1 asks"):
        Vqav2(folder)
    file.write_text(json.dumps({"answers": []}))
    with pytest.raises(ValueError, match="annotations.json has no list named annotations"):
        Vqav2(folder)

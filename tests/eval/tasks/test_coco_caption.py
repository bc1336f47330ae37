"""COCO Caption: words without Java, CIDEr of a case worked out by hand, and what is wrong in a file."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from llava.eval.tasks import coco_caption
from llava.eval.tasks.coco_caption import CocoCaption, cider, tokenize
from llava.eval.tasks.statistics import total
from llava.shapes.export import export
from tests.eval.tasks.lines import answered


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return export("coco_caption", tmp_path_factory.mktemp("data") / "coco", images=4)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man riding a wave, on top of a surfboard.", "a man riding a wave on top of a surfboard"),
        ("It isn't a dog's T-shirt!", "it is n't a dog 's t-shirt"),
        ("\u201cStop\u201d \u2013 it\u2019s 5 o'clock...", "stop it 's 5 o'clock"),
        ("two cats;one (black) bag", "two cats one black bag"),
        ("", ""),
    ],
)
def test_words(caption, words):
    assert tokenize(caption) == words


def test_cider_of_two_pictures():
    """The first caption is its reference: each of the four lengths of n-grams is alike, but a caption of two words has
    none of length 3 and 4, so the mean is (1 + 1 + 0 + 0) / 4, times ten. The second shares nothing.
    """
    found = cider(["red cat", "a tree"], [["red cat"], ["blue dog"]])
    assert found == pytest.approx([5, 0])


def test_cider_of_half_a_caption():
    """Of two words one is shared: in 1-grams the cosine is 1/2, weights being equal; lengths 2 and 2 cost nothing."""
    found = cider(["red cow", "x y"], [["red cat"], ["blue dog"]])
    assert found[0] == pytest.approx(10 * 0.5 / 4)


def test_cider_is_lowered_for_another_length():
    """The same words and two more: cosine 1/sqrt(2) in 1-grams, 1/sqrt(3) in 2-grams, both times exp(-2^2 / (2 * 6^2))."""
    found = cider(["red cat red2 cat2", "x y"], [["red cat"], ["blue dog"]])
    penalty = math.exp(-4 / 72)
    assert found[0] == pytest.approx(10 * penalty * (1 / math.sqrt(2) + 1 / math.sqrt(3)) / 4)


def test_scores_of_the_exported_layout(exported):
    task = CocoCaption(exported)
    assert all(example.image.is_file() for example in task.examples)
    said = {example.key: example.label if example.key in "12" else "nothing" for example in task.examples}
    lines = answered(task, lambda one: said[one.key])
    found = task.metrics(lines)
    assert found["accuracy"] == 0.5 and found["score"] > 100
    pictures = task.contributions(lines)
    assert pictures.value[2:] == [0, 0] and total(pictures) == pytest.approx(found["score"])
    assert found["score_interval"][0] < found["score"] < found["score_interval"][1]


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(coco_caption, "installed", lambda package: False)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[caption\]'"):
        cider(["a"], [["a"]])


def test_bad_files_are_named(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "data")
    file = folder / "annotations/captions_val2014.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({**known, "images": known["images"][1:]}))
    with pytest.raises(ValueError, match="record 1: image_id=1 is none of the pictures"):
        CocoCaption(folder)
    file.write_text(json.dumps({"images": known["images"], "annotations": known["annotations"][5:]}))
    with pytest.raises(ValueError, match="no captions of COCO_val2014_000000000001.png, which .*jsonl:1 asks"):
        CocoCaption(folder)

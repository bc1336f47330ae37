"""What every task shares: the registry, files and what is wrong in them, and even slices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.constants import SHORT_ANSWER
from llava.eval.tasks.base import (
    Example,
    Task,
    get_task,
    list_tasks,
    sample_evenly,
    subtask_scores,
)
from llava.pictures import load_image
from llava.shapes.export import export
from tests.sharding import make_shards


def examples(pictures: int, each: int) -> list[Example]:
    return [Example(f"{p}#{q}", str(p), str(p), None, "", "Yes", "") for p in range(pictures) for q in range(each)]


def test_every_file_of_tasks_is_a_task():
    assert "mme" in list_tasks()
    for name in list_tasks():
        assert get_task(name).name == name


def test_unknown_task_suggests():
    with pytest.raises(ValueError, match="task='MMEE'.*did you mean 'mme'"):
        get_task("MMEE")


@pytest.mark.parametrize(("limit", "kept"), [(None, 12), (100, 12), (12, 12), (11, 9), (3, 3), (1, 3)])
def test_spread_keeps_whole_pictures(limit, kept):
    chosen = sample_evenly(examples(4, 3), limit)
    assert len(chosen) == kept
    assert all(sum(other.picture == example.picture for other in chosen) == 3 for example in chosen)


def test_spread_reaches_over_the_whole_sequence():
    assert [example.picture for example in sample_evenly(examples(10, 2), 6)][::2] == ["0", "3", "6"]


def jsonl(file: Path, *lines: object) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def asked(name: object = 1, text: object = "Why?", image: object = "1.png") -> dict:
    return {"question_id": name, "text": text, "image": image}


class Little(Task):
    """A task with an answer for everything."""

    name, questions, pictures, answers = "little", ("asked.jsonl", "other.jsonl"), "seen", "known.json"

    def read(self):
        for _, line in self.question_lines():
            name = str(line["question_id"])
            yield Example(name, name, line["image"], self.images / line["image"], line["text"], "Yes", "all")

    def parse(self, text):
        return text

    def aggregate(self, lines):
        return {"score": 100 * sum(line["correct"] for line in lines) / len(lines), "max_score": 100}


def test_data_is_a_folder_or_a_question_file(tmp_path):
    file = jsonl(tmp_path / "other.jsonl", asked())
    for data in (tmp_path, file):
        task = Little(data)
        assert (task.file, task.images, task.truth) == (file, tmp_path / "seen", tmp_path / "known.json")
        assert task.sources() == [file]
    jsonl(tmp_path / "asked.jsonl", asked(2))
    assert Little(tmp_path).examples[0].key == "2"
    elsewhere = Little(file, images="/pictures", truth=jsonl(tmp_path / "truth.json"))
    assert elsewhere.examples[0].image == Path("/pictures/1.png")
    assert elsewhere.sources() == [file, tmp_path / "truth.json"]


def test_the_fingerprint_is_that_of_questions_and_truth(tmp_path):
    jsonl(tmp_path / "asked.jsonl", asked())
    first = Little(tmp_path).fingerprint()
    (tmp_path / "known.json").write_text("{}")
    assert Little(tmp_path).fingerprint() != first


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="asked.jsonl does not exist; .* asked.jsonl or other.jsonl, or the question"
    ):
        Little(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere/asked.jsonl"):
        Little(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([asked(), asked(text=" Why? <image>")], "asked.jsonl:2 asks twice what .*asked.jsonl:1 does: 'Why\\?' of 1"),
        ([asked(text=3)], "asked.jsonl:1: text=3"),
        ([asked(image=["1.png"])], r"asked.jsonl:1: image=\['1.png'\] must be text"),
        ([], "holds no question of little"),
    ],
)
def test_bad_questions_are_named(tmp_path, lines, message):
    jsonl(tmp_path / "asked.jsonl", *lines)
    with pytest.raises(ValueError, match=message):
        Little(tmp_path)


def test_the_bare_question_is_without_placeholder_instruction_and_line_breaks(tmp_path):
    jsonl(tmp_path / "asked.jsonl", asked())
    assert Little(tmp_path).strip_instructions(f"<image>\nIs it  red?\n{SHORT_ANSWER}") == "Is it red?"


def test_every_score_has_its_interval(tmp_path):
    """Nine of ten pictures right: 90, and an interval around it; no line at all has no score."""
    jsonl(tmp_path / "asked.jsonl", *(asked(number, image=f"{number}.png") for number in range(10)))
    task = Little(tmp_path)
    lines = [
        {"key": one.key, "picture": one.picture, **task.score(one, "no" if one.key == "3" else "yes")}
        for one in task.examples
    ]
    found = task.metrics(lines)
    assert (found["score"], found["accuracy"], found["questions"], found["failed"]) == (90, 0.9, 10, 0)
    low, high = found["score_interval"]
    assert low < 90 <= high and [low / 100, high / 100] == pytest.approx(found["accuracy_interval"])
    with pytest.raises(ValueError, match="no answer to score"):
        task.metrics([])


def test_subtask_scores_are_means_of_categories():
    lines = [
        {"category": "b", "correct": True},
        {"category": "a", "correct": False},
        {"category": "b", "correct": False},
    ]
    assert subtask_scores(lines) == {"a": {"score": 0, "questions": 1}, "b": {"score": 50, "questions": 2}}


def test_shards_hold_what_lay_in_the_folder(tmp_path):
    """Beside the questions, named or not; of a benchmark's folder of pictures; elsewhere; and one file."""
    data = export("gqa", tmp_path / "gqa", images=6)
    usual = data / "data/images"
    files = sorted(usual.iterdir())
    whole = {example.key: load_image(example.image).tobytes() for example in get_task("gqa")(data).examples}
    shards = make_shards(data, files, data / "gqa-{}.tar")
    one = make_shards(data, files, data / "data/one-{}.tar", 1)
    elsewhere = make_shards(usual, files, tmp_path / "disk/x-{}.tar")
    shutil.rmtree(usual)
    question_file = data / "llava_gqa_testdev_balanced.jsonl"
    for given, images in (
        (shards, None), (data, None), (question_file, None), (data, elsewhere), (data, tmp_path / "disk"),
        (data, f"{one}/data/images"),
    ):  # fmt: skip
        task = get_task("gqa")(given, images=images)
        assert {example.key: load_image(example.image).tobytes() for example in task.examples} == whole
    with pytest.raises(FileNotFoundError, match=r"disk/llava_gqa.*jsonl does not exist; .*; or tar shards beside it"):
        get_task("gqa")(elsewhere)

"""Whatever a benchmark's files hold, they are read, or refused by name: ValueError or OSError, without delay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava.eval.scoring import answers_file, ask_scienceqa, scienceqa, textvqa
from llava.eval.scoring.calculation import calculate
from llava.eval.scoring.convert_answer_to_mme import rows
from llava.eval.scoring.eval_answers import lines_of
from llava.eval.tasks.base import get_task, list_tasks
from llava.files import numbered_jsonl
from tests.damage import FUZZ, other_bytes, other_value

PEOPLE = [{"answer": "red", "answer_id": number} for number in range(10)]
ASKED = {"question_id": 1, "image": "a.png", "text": "Is it red?\nAnswer the question using a single word or phrase."}
PICTURE = "color/a.png"
MME = {"question_id": PICTURE, "image": PICTURE, "category": "color"}
TURNS = [{"from": "human", "value": "<image>\nWhich?\nA. a pear"}, {"from": "gpt", "value": "A"}]

# The files of each benchmark: a list is written as JSON lines where the name says so, else as JSON; text as it is.
FILES: dict[str, dict[str, Any]] = {
    "boxes": {
        "llava_boxes.jsonl": [{**ASKED, "category": "all"}],
        "boxes.jsonl": [{"question_id": 1, "box": [0.1, 0.2, 0.5, 0.6]}],
    },
    "coco_caption": {
        "llava_coco_caption_val2014.jsonl": [ASKED],
        "annotations/captions_val2014.json": {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"image_id": 1, "caption": "a red thing"}],
        },
    },
    "gqa": {
        "llava_gqa_testdev_balanced.jsonl": [ASKED],
        "data/testdev_balanced_questions.json": {"1": {"answer": "red", "types": {"structural": "query"}}},
    },
    "mme": {
        "llava_mme.jsonl": [{**MME, "text": f"Is it {colour}?"} for colour in ("red", "blue")],
        "MME_Benchmark_release_version/color/a.txt": "Is it red?\tYes\nIs it blue?\tNo\n",
    },
    "pope": {
        "llava_pope_test.jsonl": [{**ASKED, "category": "random"}],
        "coco/coco_pope_random.json": [{"image": "a.png", "text": "Is it red?", "label": "yes"}],
    },
    "scienceqa": {"llava_test_CQM-A.json": [{"id": "1", "image": "a.png", "conversations": TURNS}]},
    "textvqa": {
        "llava_textvqa_val_v051_ocr.jsonl": [ASKED],
        "TextVQA_0.5.1_val.json": {"data": [{"image_id": 1, "question": "Is it red?", "answers": PEOPLE}]},
    },
    "vqav2": {
        "llava_vqav2_mscoco_val2014.jsonl": [ASKED],
        "v2_mscoco_val2014_annotations.json": {
            "annotations": [{"question_id": 1, "answer_type": "other", "answers": PEOPLE}]
        },
    },
}
FILES["textvqa_no_ocr"] = FILES["textvqa"]
JSON_LINES = ("jsonl", "coco_pope_random.json")


def written(content: Any, name: str) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, list) and name.endswith(JSON_LINES):
        return "".join(json.dumps(line) + "\n" for line in content).encode()
    return json.dumps(content).encode()


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written(content, name))


def damaged(data: st.DataObject, files: dict[str, Any], folder: Path) -> None:
    """Write the files, one of them damaged."""
    write(folder, files)
    name = data.draw(st.sampled_from(sorted(files)))
    if isinstance(files[name], str) or data.draw(st.booleans()):
        content = data.draw(other_bytes(written(files[name], name)))
    else:
        content = written(data.draw(other_value(files[name])), name)
    (folder / name).write_bytes(content)


def refused_or(read: Callable[[], Any], folder: Path) -> Any:
    """What is read, or None where it is refused with the name of a file and in few words."""
    try:
        return read()
    except (ValueError, OSError) as error:
        assert str(folder) in str(error) and len(str(error)) < 1500
        return None


def test_every_task_is_tried():
    assert sorted(FILES) == list_tasks()


@pytest.mark.parametrize("name", sorted(FILES))
def test_whole_files_are_read(name, tmp_path):
    write(tmp_path, FILES[name])
    task = get_task(name)(tmp_path)
    assert len(task.examples) == (2 if name == "mme" else 1)
    assert task.score(task.examples[0], "red")["label"]


@pytest.mark.parametrize("name", sorted(FILES))
@FUZZ
@given(data=st.data())
def test_damaged_files_are_refused_by_name(name, data, tmp_path):
    damaged(data, FILES[name], tmp_path)
    task = refused_or(lambda: get_task(name)(tmp_path), tmp_path)
    for example in task.examples if task else ():
        assert isinstance(task.prompt(example), str) and isinstance(example.image, Path | None)
        json.dumps(task.score(example, "red"), ensure_ascii=False).encode()


LISTED = {"question_id": PICTURE, "answer": "Yes", "category": "color", "image_file": PICTURE}


@FUZZ
@given(data=st.data())
def test_damaged_lists_of_mme_are_refused_by_name(data, tmp_path):
    files = {"MME_test.json": [{**LISTED, "question": f"Is it {colour}?"} for colour in ("red", "blue")]}
    damaged(data, files, tmp_path)
    refused_or(lambda: get_task("mme")(tmp_path), tmp_path)


@FUZZ
@given(data=st.data())
def test_damaged_answers_are_refused_by_name(data, tmp_path):
    write(tmp_path, FILES["mme"])
    answers = [
        {"question_id": PICTURE, "prompt": f"Is it {colour}?", "text": "yes", "metadata": {"kept": [1]}}
        for colour in ("red", "blue")
    ]
    damaged(data, {"answers.jsonl": answers}, tmp_path)
    task = get_task("mme")(tmp_path)
    lines = refused_or(lambda: lines_of(task, tmp_path / "answers.jsonl"), tmp_path)
    if lines:
        assert sum(map(len, rows(task, lines).values())) == 2


@FUZZ
@given(data=st.data())
def test_damaged_answers_on_textvqa_are_refused_by_name(data, tmp_path):
    answer = {"question_id": 1, "prompt": ASKED["text"], "text": "red"}
    damaged(data, {"answers.jsonl": [answer]}, tmp_path)
    truth = {("1", "is it red?"): ["red"] * 10}
    refused_or(lambda: textvqa.credits(tmp_path / "answers.jsonl", truth), tmp_path)


@FUZZ
@given(data=st.data())
def test_damaged_problems_and_answers_on_scienceqa_are_refused_by_name(data, tmp_path):
    files = {
        "pid_splits.json": {"test": ["1"]},
        "problems.json": {"1": {"choices": ["a pear", "a plum"], "answer": 0}},
        "answers.jsonl": [{"question_id": 1, "prompt": "Which?", "text": "A"}],
    }
    damaged(data, files, tmp_path)
    problems = refused_or(lambda: scienceqa.read_split(tmp_path, "test", list("ABCDE")), tmp_path)
    if problems:
        answers = refused_or(lambda: scienceqa.read_answers(tmp_path / "answers.jsonl", problems), tmp_path)
        for name, answer in (answers or {}).items():
            scienceqa.judge(name, problems[name], answer, list("ABCDE"))


@FUZZ
@given(data=st.data())
def test_damaged_text_files_of_mme_are_refused_by_name(data, tmp_path):
    damaged(data, {"color.txt": "a.png\tIs it red?\tYes\tyes\na.png\tIs it blue?\tNo\tno\n"}, tmp_path)
    refused_or(lambda: calculate(tmp_path), tmp_path)


@FUZZ
@given(data=st.data())
def test_damaged_question_files_of_scripts_are_refused_by_name(data, tmp_path):
    lines = [{"question_id": number, "image": "a.png", "text": "Why?", "category": "all"} for number in (1, "two")]
    damaged(data, {"asked.jsonl": lines, "asked.json": FILES["scienceqa"]["llava_test_CQM-A.json"]}, tmp_path)
    file, other = tmp_path / "asked.jsonl", tmp_path / "asked.json"

    def loader() -> Any:
        numbered = ((f"{file}:{at}", line) for at, line in numbered_jsonl(file, ("question_id", "text")))
        return answers_file.questions_from("loader", file, numbered, tmp_path, 8)

    def science() -> Any:
        return answers_file.questions_from("science", other, ask_scienceqa.questions(other), tmp_path, 8)

    for read in (loader, science):
        made = refused_or(read, tmp_path)
        if made:
            json.dumps(made.recorded, ensure_ascii=False).encode()

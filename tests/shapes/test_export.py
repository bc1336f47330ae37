"""The exported layouts: what is where, that it is the same again, and that nothing half done is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from llava.shapes import export as module
from llava.shapes.export import export
from llava.shapes.questions import CATEGORIES


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_mme_layout(tmp_path):
    folder = export("mme", tmp_path / "mme", images=2)
    lines = [json.loads(line) for line in (folder / "llava_mme.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * len(CATEGORIES)
    assert set(lines[0]) == {"question_id", "image", "text", "category"}
    assert lines[0]["question_id"] == "existence/0001.png"
    assert [line["category"] for line in lines[::4]] == list(CATEGORIES)
    for line in lines:
        assert line["text"].endswith("\nAnswer the question using a single word or phrase.")
        with Image.open(folder / "MME_Benchmark_release_version" / line["image"]) as image:
            assert image.size == (336, 336)
    root = folder / "MME_Benchmark_release_version"
    for truth in (root / "count/0002.txt", root / "scene/questions_answers_YN/0002.txt"):
        asked, answers = zip(*(line.split("\t") for line in truth.read_text().splitlines()))
        assert answers == ("Yes", "No")
        assert all(question.endswith(" Please answer yes or no.") for question in asked)


def test_scienceqa_layout(tmp_path):
    folder = export("scienceqa", tmp_path / "sqa", images=3)
    problems = json.loads((folder / "problems.json").read_text())
    splits = json.loads((folder / "pid_splits.json").read_text())
    asked = json.loads((folder / "llava_test_CQM-A.json").read_text())
    assert splits["test"] == list(problems) == [item["id"] for item in asked]
    assert json.loads((folder / "himap-inference-MCQ.json").read_text()) == asked
    for item in asked:
        human, gpt = item["conversations"]
        problem = problems[item["id"]]
        assert human["value"].startswith(f"<image>\nContext: N/A\n{problem['question']}\nA. {problem['choices'][0]}")
        assert gpt["value"] == "ABCDE"[problem["answer"]]
        assert (folder / "images/test" / item["image"]).is_file()


def test_llava_layout(tmp_path):
    folder = export("llava", tmp_path / "llava", images=2)
    records = json.loads((folder / "llava_shapes.json").read_text())
    assert len(records) == 2
    for record in records:
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert [("<image>" in turn["value"]) for turn in turns] == [True] + [False] * (len(turns) - 1)
        assert (folder / "images" / record["image"]).is_file()


def test_same_seed_same_bytes_other_seed_other_pictures(tmp_path):
    first, again, other = (export("mme", tmp_path / name, 1, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert files(first) == files(again)
    picture = "MME_Benchmark_release_version/color/0001.png"
    assert files(first)[picture] != files(other)[picture]


def test_complete_folder_is_left_and_a_stopped_one_is_made_anew(tmp_path, monkeypatch):
    real, drawn = module.world.render, []

    def stopped(scene):
        drawn.append(scene)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return real(scene)

    monkeypatch.setattr(module.world, "render", stopped)
    with pytest.raises(KeyboardInterrupt):
        export("llava", tmp_path / "out", images=5)
    assert not (tmp_path / "out").exists()
    export("llava", tmp_path / "out", images=5)
    count = len(drawn)
    export("llava", tmp_path / "out", images=5)
    assert len(drawn) == count
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_refuses_bad_input(tmp_path):
    with pytest.raises(ValueError, match="format='coco'.*mme, scienceqa, llava"):
        export("coco", tmp_path / "out")
    with pytest.raises(ValueError, match="images=0"):
        export("mme", tmp_path / "out", images=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(ValueError, match="was not written here"):
        export("llava", tmp_path / "mine", images=1)
    export("llava", tmp_path / "out", images=1)
    with pytest.raises(ValueError, match="another export"):
        export("llava", tmp_path / "out", images=2)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_command_line_says_what_is_wrong(tmp_path, caplog):
    assert module.main(["--format", "llava", "--output", str(tmp_path / "out"), "--images", "0"]) == 2
    assert "images=0" in caplog.text

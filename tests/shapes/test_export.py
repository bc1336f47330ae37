"""The exported layouts: what is where, that it is the same again, and that nothing half done is left."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from llava.shapes import export as module
from llava.shapes.export import export
from llava.shapes.questions import CATEGORIES
from llava.shapes.world import make_scene
from llava.worlds.protocol import STREAM


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


def test_mme_test_json_asks_what_the_jsonl_asks(tmp_path):
    folder = export("mme", tmp_path / "mme", images=1)
    records = json.loads((folder / "MME_test.json").read_text())
    lines = [json.loads(line) for line in (folder / "llava_mme.jsonl").read_text().splitlines()]
    assert [record["question_id"] for record in records] == [line["question_id"] for line in lines]
    assert set(records[0]) == {"question_id", "question", "answer", "category", "image_file"}
    for record in records:
        picture = folder / "MME_Benchmark_release_version" / record["image_file"]
        truth = picture.with_suffix(".txt")
        if not truth.is_file():
            truth = picture.parent.with_name("questions_answers_YN") / truth.name
        assert f"{record['question']}\t{record['answer']}" in truth.read_text().splitlines()


def test_an_older_mme_folder_is_given_the_file_it_lacks_and_nothing_else(tmp_path):
    folder = export("mme", tmp_path / "mme", images=1)
    before, times = files(folder), {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    (folder / "MME_test.json").unlink()
    export("mme", folder, images=1)
    assert files(folder) == before
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")} == times


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


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_pope_layout(tmp_path):
    """As many questions about what is there as about what is not; the usual absentees are the popular ones."""
    folder = export("pope", tmp_path / "pope", images=6)
    asked = read_lines(folder / "llava_pope_test.jsonl")
    assert [line["question_id"] for line in asked] == list(range(len(asked)))
    assert all((folder / "val2014" / line["image"]).is_file() for line in asked)
    scenes = {f"COCO_val2014_{n:012d}.png": make_scene(STREAM, 4, 0, n) for n in range(1, 7)}
    often = Counter(kind for scene in scenes.values() for kind in {item.kind for item in scene.shapes})
    absent = {}
    for category in ("random", "popular", "adversarial"):
        truth = read_lines(folder / "coco" / f"coco_pope_{category}.json")
        assert [line["label"] for line in truth] == ["yes", "no"] * (len(truth) // 2)
        for line in truth:
            thing = line["text"].removeprefix("Is there a ").removesuffix(" in the image?")
            kinds = {item.kind for item in scenes[line["image"]].shapes}
            assert (thing in kinds) == (line["label"] == "yes")
            absent.setdefault(category, []).extend([thing] if line["label"] == "no" else [])
        questions = [line for line in asked if line["category"] == category]
        assert [line["text"].split("\n")[0] for line in questions] == [line["text"] for line in truth]
    assert sum(often[kind] for kind in absent["popular"]) >= sum(often[kind] for kind in absent["random"])


def test_textvqa_layout(tmp_path):
    folder = export("textvqa", tmp_path / "textvqa", images=3)
    data = json.loads((folder / "TextVQA_0.5.1_val.json").read_text())["data"]
    for line, known in zip(read_lines(folder / "llava_textvqa_val_v051_ocr.jsonl"), data, strict=True):
        question, hint, _ = line["text"].split("\n")
        assert (line["question_id"], question) == (known["image_id"], known["question"])
        glyph = hint.removeprefix("Reference OCR token: ")
        assert len(known["answers"]) == 10 and known["answers"].count(glyph) >= 5
        assert (folder / "train_images" / line["image"]).is_file()


def test_coco_caption_layout(tmp_path):
    folder = export("coco_caption", tmp_path / "coco", images=2)
    known = json.loads((folder / "annotations/captions_val2014.json").read_text())
    asked = read_lines(folder / "llava_coco_caption_val2014.jsonl")
    assert [line["image"] for line in asked] == [picture["file_name"] for picture in known["images"]]
    assert [caption["image_id"] for caption in known["annotations"]] == [1] * 5 + [2] * 5
    assert len({caption["id"] for caption in known["annotations"]}) == 10
    assert all((folder / "val2014" / line["image"]).is_file() for line in asked)


def test_gqa_layout(tmp_path):
    folder = export("gqa", tmp_path / "gqa", images=2)
    truth = json.loads((folder / "data/testdev_balanced_questions.json").read_text())
    asked = read_lines(folder / "llava_gqa_testdev_balanced.jsonl")
    assert [line["question_id"] for line in asked] == list(truth) and len(truth) == 8
    assert all((folder / "data/images" / line["image"]).is_file() for line in asked)
    assert [known["types"]["structural"] for known in truth.values()] == ["query", "query", "verify", "verify"] * 2
    assert [known["answer"] for known in truth.values()][2:4] == ["yes", "no"]


def test_vqav2_layout(tmp_path):
    folder = export("vqav2", tmp_path / "vqav2", images=2)
    asked = read_lines(folder / "llava_vqav2_mscoco_test-dev2015.jsonl")
    assert asked == read_lines(folder / "llava_vqav2_mscoco_test2015.jsonl")
    known = json.loads((folder / "v2_mscoco_test-dev2015_annotations.json").read_text())["annotations"]
    assert (
        [line["question_id"] for line in asked]
        == [one["question_id"] for one in known]
        == [*range(1000, 1004), *range(2000, 2004)]
    )
    assert all(len(one["answers"]) == 10 for one in known)
    assert {one["answer_type"] for one in known} <= {"yes/no", "number", "other"}
    assert all((folder / "test2015" / line["image"]).is_file() for line in asked)


@pytest.mark.parametrize("layout", ["pope", "textvqa", "coco_caption", "gqa", "vqav2"])
def test_same_seed_same_bytes_in_every_layout(layout, tmp_path):
    first, again, other = (export(layout, tmp_path / name, 2, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert files(first) == files(again) != files(other)


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

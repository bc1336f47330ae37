"""The world of things in the layouts of benchmarks: the pictures of the repository, and others drawn; every task reads them."""

from __future__ import annotations

import json
import runpy
import sys
import zlib
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from llava.eval.tasks.base import get_task
from llava.things import export as module
from llava.things.export import export, main
from llava.things.world import benchmark
from llava.things.world.benchmark import SHIPPED, Things, read_shipped, write_shipped
from llava.things.world.names import alike
from llava.worlds.layouts import WRITERS
from tests.eval.tasks.lines import answered
from tests.things.world.fake import fake_world

SHIPPED_HERE = Path(__file__).parents[3] / SHIPPED
TASKS = [layout for layout in Things.images if layout != "llava"]
# The questions of the repository's 200 pictures: whoever changes them changes every figure that was measured on them
QUESTIONS = {
    "mme/llava_mme.jsonl": 3429525158,
    "scienceqa/llava_test_CQM-A.json": 3734281592,
    "pope/llava_pope_test.jsonl": 3626968275,
    "boxes/boxes.jsonl": 144428033,
    "coco_caption/annotations/captions_val2014.json": 2208564317,
}


def no_world(cache, mirror):
    raise AssertionError("packages were asked for")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return fake_world(tmp_path_factory.mktemp("things"))


@pytest.fixture
def drawing(world, monkeypatch):
    """Packages hold the small world."""
    monkeypatch.setattr(benchmark, "load_world", lambda cache, mirror: world)


@pytest.fixture
def offline(monkeypatch):
    """Packages are not to be had."""
    monkeypatch.setattr(benchmark, "load_world", no_world)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("layout", TASKS)
def test_every_task_reads_its_layout_of_the_repository(layout, tmp_path, offline):
    task = get_task(layout)(export(layout, tmp_path / layout, images=9, folder=SHIPPED_HERE))
    pictures = {example.image for example in task.examples}
    assert 6 < len(pictures) <= 9 and all(picture is not None and picture.is_file() for picture in pictures)
    shipped = {(SHIPPED_HERE / f"images/{number:04d}.jpg").read_bytes() for number in range(1, 10)}
    assert {file.read_bytes() for file in pictures if file} <= shipped
    if layout not in ("vqav2", "coco_caption"):
        found = task.metrics(answered(task, lambda example: example.label))
        assert found["score"] == found["max_score"]


def test_the_subtasks_of_mme_share_out_the_pictures(tmp_path, offline):
    folder = export("mme", tmp_path / "mme", images=24, folder=SHIPPED_HERE)
    for data in (folder, folder / "MME_test.json"):
        task = get_task("mme")(data)
        labels = Counter((example.category, example.label) for example in task.examples)
        subtasks = {subtask for subtask, _ in labels}
        assert subtasks == {"existence", "count", "position", "color", "kind", "naming"}
        assert all(3 <= labels[subtask, "Yes"] == labels[subtask, "No"] <= 5 for subtask in subtasks)
        assert len({example.picture for example in task.examples}) == 24
        pictures = {example.image: example.image.read_bytes() for example in task.examples if example.image}
        assert len(pictures) == len(set(pictures.values())) == 24
    always = task.metrics(answered(task, lambda example: "Yes"))
    assert always["accuracy"] == 0.5 and always["further_max"] == 400


def test_the_questions_of_the_repository_are_always_the_same(tmp_path, offline):
    found = {}
    for name in QUESTIONS:
        layout, _, file = name.partition("/")
        folder = export(layout, tmp_path / layout, folder=SHIPPED_HERE)
        found[name] = zlib.crc32((folder / file).read_bytes())
    assert found == QUESTIONS


def test_the_pictures_of_the_repository():
    world, scenes = read_shipped(SHIPPED_HERE)
    assert len(scenes) == 200 and len(world.things) == 234
    pictures = sorted((SHIPPED_HERE / "images").iterdir())
    assert len(pictures) == 200 and sum(file.stat().st_size for file in pictures) < 8 << 20
    for file in pictures:
        with Image.open(file) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (336, 336), "RGB")
    said = (SHIPPED_HERE / "README.md").read_text()
    assert "GPL-2" in said and "tuxpaint-stamps-default" in said and "mate-backgrounds" in said
    assert "GNU GENERAL PUBLIC LICENSE" in (SHIPPED_HERE / "COPYING").read_text()


@pytest.mark.parametrize("layout", TASKS)
def test_drawn_or_taken_the_same_questions_and_pictures(layout, world, drawing, tmp_path):
    folder = write_shipped(world, tmp_path / "shipped", 3)
    taken = export(layout, tmp_path / "taken", images=3, folder=folder)
    drawn = export(layout, tmp_path / "drawn", images=3, folder=tmp_path / "nothing")
    again = export(layout, tmp_path / "again", images=3, folder=tmp_path / "nothing")
    other = export(layout, tmp_path / "other", images=3, seed=1, folder=folder)
    assert files(taken) == files(drawn) == files(again)
    kinds = [{name: content for name, content in files(one).items() if name != "export.json"} for one in (drawn, other)]
    assert kinds[0] != kinds[1] and len(kinds[0]) > 3


def test_more_pictures_than_the_repository_has_are_drawn_beside_them(world, drawing, tmp_path):
    folder = write_shipped(world, tmp_path / "shipped", 2)
    (folder / "images/0001.jpg").write_bytes(b"taken")
    made = export("boxes", tmp_path / "boxes", images=4, folder=folder)
    assert (made / "images/000001.jpg").read_bytes() == b"taken"
    assert Image.open(made / "images/000004.jpg").size == (336, 336)


def test_conversations_are_never_about_the_pictures_of_benchmarks(world, drawing, tmp_path):
    folder = write_shipped(world, tmp_path / "shipped", 3)
    told = export("llava", tmp_path / "llava", images=3, folder=folder)
    records = json.loads((told / "llava_things.json").read_text())
    assert [record["image"] for record in records] == ["000001.jpg", "000002.jpg", "000003.jpg"]
    for record in records:
        turns = record["conversations"]
        assert turns[0]["value"].startswith("<image>\n") and "<image>" not in turns[2]["value"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
    shown = [file.read_bytes() for file in (told / "images").iterdir()]
    assert not set(shown) & {file.read_bytes() for file in (folder / "images").iterdir()}


def test_what_pope_says_is_not_there_cannot_be_said_of_anything_there(world, drawing, tmp_path):
    made = export("pope", tmp_path / "pope", images=8, folder=tmp_path)
    scenes = {f"COCO_val2014_{number:012d}.jpg": scene for number, scene, _ in _first(world, 8)}
    labels = Counter()
    for file in (made / "coco").iterdir():
        for line in map(json.loads, file.read_text().splitlines()):
            name = line["text"].removeprefix("Is there a").removeprefix("n").removesuffix(" in the image?").strip()
            there = {item.name for item in scenes[line["image"]].items}
            assert (name in there) if line["label"] == "yes" else not any(alike(name, other) for other in there)
            labels[file.stem, line["label"]] += 1
    assert len(labels) == 6 and len({labels[name, "yes"] - labels[name, "no"] for name, _ in labels}) == 1


def _first(world, number):
    return [drawn for drawn, _ in zip(Things(world).pictures(4, 0), range(number))]


def test_a_stopped_export_leaves_nothing_and_a_whole_one_is_left(world, drawing, tmp_path, monkeypatch):
    real, drawn = Things.save, []

    def stopped(self, scene, file):
        drawn.append(scene)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        real(self, scene, file)

    monkeypatch.setattr(Things, "save", stopped)
    command = ["--format", "boxes", "--images", "3", "--output", str(tmp_path / "out"), "--pictures", str(tmp_path)]
    assert main(command) == 130
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    count = len(drawn)
    assert main(command) == 0 and len(drawn) == count == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--images", "0"], "images=0 is too few"),
        (["--images", "2", "--seed", "1"], "no such mirror"),
        (["--pictures", "broken"], "is no thing of the world"),
        (["--pictures", "lacking"], "0001.jpg is not there"),
    ],
)
def test_what_is_wrong_is_said(given, message, world, tmp_path, monkeypatch, caplog):
    def missing(cache, mirror):
        raise FileNotFoundError("no such mirror")

    monkeypatch.setattr(benchmark, "load_world", missing)
    monkeypatch.chdir(tmp_path)
    broken = write_shipped(world, tmp_path / "broken", 1)
    (broken / "scenes.json").write_text((broken / "scenes.json").read_text().replace('"things": [', '"things": [{},'))
    (write_shipped(world, tmp_path / "lacking", 1) / "images/0001.jpg").unlink()
    assert main(["--format", "boxes", "--output", "out", *given]) == 2
    assert message in caplog.text and not Path("out").exists()


def test_an_unknown_layout_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="format='textvqa' is not known; choose one of mme, scienceqa, llava, pope, boxes"
    ):
        export("textvqa", tmp_path / "out")
    assert set(Things.images) < set(WRITERS)


def test_llava_things_runs_its_commands(monkeypatch, tmp_path, caplog):
    monkeypatch.delitem(sys.modules, "llava.things.export")
    monkeypatch.setattr(sys, "argv", ["llava things", "export", "--images", "0", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("llava.things", run_name="__main__")
    assert ended.value.code == 2 and "images=0" in caplog.text
    assert module.parser().prog == "llava things export"

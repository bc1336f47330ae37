"""``llava plan``: a folder of links that runs a plan wherever a checkpoint is loaded, whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from llava.harness import plan
from llava.harness.plan import main, write_planned
from llava.model.builder import load_pretrained_model
from tests.conftest import PARITY15

CHECKPOINT = PARITY15 / "checkpoint"


def stages(folder):
    return [str(stage) for stage in load_pretrained_model(folder, device="cpu")[1].get_model().plan()]


def test_the_folder_is_the_checkpoint_under_the_plan(tmp_path, llava15):
    output = tmp_path / "new" / "planned"
    assert main([str(CHECKPOINT), "fastv@2:9", "--output", str(output)]) == 0
    names = {file.relative_to(CHECKPOINT) for file in CHECKPOINT.rglob("*") if file.is_file()}
    assert {file.relative_to(output) for file in output.rglob("*") if file.is_file()} == names | {Path(plan.MARK)}
    own = {file.name for file in output.rglob("*") if file.is_file() and not file.is_symlink()}
    assert own == {"config.json", plan.MARK} and [path.name for path in output.parent.iterdir()] == ["planned"]
    _, model, *_ = load_pretrained_model(output, device="cpu")
    inputs = llava15.inputs(llava15.cases()[0])
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, llava15.model(**inputs, reduction="fastv@2:9").logits)


def test_the_template_does_not_hang_on_the_folders_name(tmp_path):
    named = shutil.copytree(CHECKPOINT, tmp_path / "llava-v1.5-7b")
    config = json.loads((named / "config.json").read_text())
    config.pop("conv_mode", None)
    (named / "config.json").write_text(json.dumps(config))
    planned = json.loads((write_planned(named, "divprune:4", tmp_path / "x") / "config.json").read_text())
    assert planned == config | {"reduction": "divprune:4", "conv_mode": "llava_v1"}


def test_a_plan_takes_the_place_of_the_one_that_is_there(tmp_path, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    given = config | {"use_fast_v": True, "fast_v_attention_rank": 9}
    (checkpoint / "config.json").write_text(json.dumps(given))
    first = write_planned(checkpoint, "divprune:4", tmp_path / "first")
    assert stages(first) == ["divprune:4"]
    file = tmp_path / "plan.yaml"
    file.write_text("reduction: [{method: fastv, layer: 1, keep: 7}]\n")
    assert stages(write_planned(first, str(file), tmp_path / "second")) == ["fastv@1:7"]


def test_what_is_there_is_left_as_it_is(tmp_path, caplog):
    output = write_planned(CHECKPOINT, "fastv@2:9", tmp_path / "planned")
    before = {file: file.lstat().st_mtime_ns for file in output.rglob("*")}
    write_planned(CHECKPOINT, "fastv@2:9", output)
    assert main([str(CHECKPOINT), "fastv@2:8", "--output", str(output)]) == 2
    assert "holds another checkpoint with a plan" in caplog.text and "fastv@2:8" in caplog.text
    assert {file: file.lstat().st_mtime_ns for file in output.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    assert main([str(CHECKPOINT), "fastv@2:9", "--output", str(tmp_path / "mine")]) == 2
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("checkpoint", "reduction", "said"),
    [
        (CHECKPOINT, "fastw@2:9", "did you mean 'fastv'"),
        (CHECKPOINT, "fastv@99:9", "99"),
        (CHECKPOINT, "", "the plan is empty"),
        (CHECKPOINT, "nowhere.yaml", "no plan file"),
        ("./nowhere", "fastv@2:9", "checkpoint './nowhere' not found"),
        (PARITY15, "fastv@2:9", "config.json"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(checkpoint, reduction, said, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert main([str(checkpoint), reduction, "--output", "out"]) == 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert said in record.getMessage() and "\n" not in record.getMessage()
    assert list(tmp_path.iterdir()) == []


def test_the_output_lies_outside_of_the_checkpoint(checkpoint):
    with pytest.raises(ValueError, match="lies in the checkpoint"):
        write_planned(checkpoint, "fastv@2:9", checkpoint / "planned")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plan, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        write_planned(CHECKPOINT, "fastv@2:9", tmp_path / "planned")
    assert list(tmp_path.iterdir()) == []

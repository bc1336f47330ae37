"""Which checkpoint of a training is whole, and what is said where a file cannot be written or read."""

from __future__ import annotations

import pytest
from safetensors import SafetensorError

from llava.train.checkpoints import check_whole, last_checkpoint, reading, writing


def test_the_newest_complete_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-11").mkdir()
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize("content", ["", '{"global_step": 3', "[]"])
def test_a_checkpoint_whose_last_file_is_cut_short_is_passed_over(tmp_path, content):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3/trainer_state.json").write_text(content)
    assert last_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match="checkpoint-3' is no complete checkpoint"):
        check_whole(tmp_path / "checkpoint-3")


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error"), RuntimeError("PytorchStreamWriter failed")],
)
def test_what_stops_writing_is_an_oserror(error):
    with pytest.raises(OSError, match="out cannot be written .*; the last whole checkpoint is c. Make room"):
        with writing("out", "c"):
            raise error
    with pytest.raises(OSError, match="no checkpoint was written yet"):
        with writing("out", None):
            raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"):
        with writing("out", None):
            raise RuntimeError("shapes differ")
    with pytest.raises(FloatingPointError):
        with reading("file"):
            raise FloatingPointError("nan")

"""The results folder: whole lines only, one configuration, and an error before any work where nothing can be written."""

from __future__ import annotations

import errno
import json
import os

import pytest
import yaml

from llava.eval.results import folder as results
from llava.eval.results.folder import Run, check_writable, read_predictions, summarise_cost

CONFIG = {"task": {"name": "mme", "data": "a"}, "plan": {"stages": ["fastv@2:64"]}}


def test_writes_what_was_asked_and_where(tmp_path):
    with Run(tmp_path / "run", CONFIG):
        pass
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text()) == {"format": results.FORMAT, **CONFIG}
    found = json.loads((tmp_path / "run/environment.json").read_text())
    assert found["versions"]["torch"] and found["threads"] >= 1 and "commit" in found


def test_lines_come_back_and_a_half_line_is_cut_off(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        run.append({"key": "a"})
        run.append({"key": "b", "text": "line\nbreak, é"})
    file = tmp_path / "predictions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"key": "c", "te')
    with Run(tmp_path, CONFIG) as run:
        assert run.done == {"a", "b"}
        assert file.read_bytes() == whole
        run.append({"key": "c"})
    assert [line["key"] for line in read_predictions(file)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"key": "a"}\n{"key"\n', "jsonl:2 is not a line"),
        ('{"key": "a"}\n{"key": "a"}\n', "jsonl:2 answers a a second"),
        ('{"key": ["a"]}\n', "jsonl:1 is not a line"),
        ('{"text": "a"}\n', "jsonl:1 is not a line.* lacks key"),
        ('["a"]\n', "jsonl:1 is not a line"),
        ('{"key": ' + "[" * 100_000 + "\n", "jsonl:1 is not a line.* nested too deeply"),
        ("\xff\n", "jsonl:1 is not a line"),
    ],
)
def test_a_spoiled_file_is_named(tmp_path, content, message):
    with Run(tmp_path, CONFIG):
        pass
    (tmp_path / "predictions.jsonl").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        Run(tmp_path, CONFIG)


def test_another_configuration_is_refused_by_name(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        run.append({"key": "a"})
    other = {**CONFIG, "plan": {"stages": ["fastv@2:16"]}}
    with pytest.raises(ValueError, match=r"plan.stages is \['fastv@2:64'\] there and \['fastv@2:16'\] now.*--results"):
        Run(tmp_path, other)
    moved = {**CONFIG, "task": {"name": "mme", "data": "b"}}
    with Run(tmp_path, moved) as run:  # the same questions from another place
        assert run.done == {"a"}


BOMB = "a: &a {}\n" + "".join(
    f"{name}: &{name} {{{', '.join(f'k{n}: *{before}' for n in range(9))}}}\n"
    for before, name in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    "content", ["", "[a, b]", "5", "a: [", "!!python/object:os.system {}", "a: " + "[" * 5000, BOMB], ids=range(7)
)
def test_a_spoiled_configuration_is_named(tmp_path, content):
    with Run(tmp_path, CONFIG) as run:
        run.append({"key": "a"})
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="config.yaml.*; remove the folder .* or give another --results"):
        Run(tmp_path, CONFIG)


def test_a_run_resumes_with_a_smaller_batch_and_on_another_device(tmp_path):
    """A batch equals each of its rows alone, and a device's name decides nothing."""
    with Run(tmp_path, {**CONFIG, "batch_size": 8, "model": {"device": "cuda", "dtype": "float16"}}) as run:
        run.append({"key": "a"})
    with Run(tmp_path, {**CONFIG, "batch_size": 4, "model": {"device": "cuda:1", "dtype": "float16"}}) as run:
        assert run.done == {"a"}
    with pytest.raises(ValueError, match="model.dtype is 'float16' there and 'float32' now"):
        Run(tmp_path, {**CONFIG, "batch_size": 4, "model": {"device": "cpu", "dtype": "float32"}})


def test_lines_end_at_line_feeds_alone(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        run.append({"key": "a", "text": "one\u2028two\u2029three\x85four\x1cfive"})
        run.append({"key": "b"})
    assert len(read_predictions(tmp_path / "predictions.jsonl")) == 2


def test_a_folder_without_answers_takes_any_configuration(tmp_path):
    with Run(tmp_path, CONFIG):
        pass
    with Run(tmp_path, {"plan": "other"}):
        pass
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["plan"] == "other"


def test_two_runs_cannot_write_one_folder(tmp_path):
    with Run(tmp_path, CONFIG):
        with pytest.raises(OSError, match="another run is writing"):
            Run(tmp_path, CONFIG)
    with Run(tmp_path, CONFIG):
        pass


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written to .*file/run .*give a folder that is writable"):
        Run(tmp_path / "file" / "run", CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="give a folder that is writable"):
        check_writable(tmp_path)
    tmp_path.chmod(0o700)


def test_full_disk_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(results.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match="make room") as error:
        check_writable(tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_full_disk_within_the_run_leaves_whole_lines(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        run.append({"key": "a"})
        whole, real = (tmp_path / "predictions.jsonl").read_bytes(), run._file

        class Full:
            """Takes half of what it is given, as a disk does that runs full."""

            def write(self, data):
                return real.write(data[: len(data) // 2])

            def fileno(self):
                return real.fileno()

            def close(self):
                real.close()

        run._file = Full()
        with pytest.raises(OSError, match="takes no more after 1 answers.*make room"):
            run.append({"key": "b"})
        assert (tmp_path / "predictions.jsonl").read_bytes() == whole


def test_failed_questions_can_be_forgotten(tmp_path):
    with Run(tmp_path, CONFIG) as run:
        for line in ({"key": "a"}, {"key": "b", "error": "torn"}, {"key": "c"}):
            run.append(line)
        assert run.retry_failed() == 1
        run.append({"key": "b"})
    assert [line["key"] for line in read_predictions(tmp_path / "predictions.jsonl")] == ["a", "c", "b"]


def test_cost_is_a_mean_over_answered_questions():
    line = {"cost": {"visual_tokens": 10, "kv_bytes": 4}, "kept": [12, 8], "seconds": 0.1, "tower_seconds": 0.02}
    other = {"cost": {"visual_tokens": 20, "kv_bytes": 8}, "kept": [24, 16], "seconds": 0.3, "tower_seconds": 0.02}
    found = summarise_cost([line, other, {"error": "torn"}])
    assert (found["questions"], found["visual_tokens"], found["kv_bytes"]) == (2, 15, 6)
    assert found["visual_per_layer"] == [18, 12]
    assert found["ms_per_question"] == pytest.approx(200)
    assert summarise_cost([{"error": "torn"}]) == {"questions": 0}

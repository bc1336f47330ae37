"""One run's folder read back: what a row takes from it, and every spoiled file by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.eval.report.runs import collect, read_run
from tests.eval.folders import make_run, questions

KEYS = questions()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root, "full")
    return root


@pytest.fixture
def results(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def test_the_template_is_the_runs_own(results):
    assert read_run(results / "full").template == "vicuna_v1"
    file = results / "full/config.yaml"
    file.write_text(file.read_text().replace("conv_mode: vicuna_v1\n", ""))
    assert read_run(results / "full").template is None


def test_an_adaptive_plan_shows_what_it_really_kept(results):
    """Two questions keep 10 and 40 of 576 from layer 2 of 4 on: 293 and 308 on the mean of the layers, the others 576."""
    folder = results / "full"
    assert read_run(folder).visual_tokens_range is None
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    lines[0]["kept"], lines[5]["kept"] = [576, 576, 10, 10], [576, 576, 40, 40]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(folder).visual_tokens_range == [293, 576]


def test_a_run_of_an_older_version_gets_the_intervals_of_this_one(results):
    """Stored bounds of a perfect score were the score itself, or missed it by a rounding error."""
    file = results / "full/metrics.json"
    intervals = read_run(results / "full").score_interval
    metrics = {**json.loads(file.read_text()), "score_interval": [600.0000000000001] * 2}
    file.write_text(json.dumps(metrics))
    assert read_run(results / "full").score_interval == intervals and intervals[1] - intervals[0] > 100
    (results / "full/predictions.jsonl").unlink()
    assert read_run(results / "full").score_interval == [600.0, 600.0000000000001]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("metrics.json", lambda text: text[:40], r"full/metrics.json:\d+ is not JSON.*remove it"),
        ("metrics.json", lambda text: "[1]", "metrics.json holds a list where a dict belongs; remove it"),
        ("metrics.json", lambda text: "{}", "full has no 'score' in its"),
        (
            "metrics.json",
            lambda text: text.replace('"score": 600.0', '"score": "a"', 1),
            "score='a', which is no number",
        ),
        ("cost.json", lambda text: text.replace("576.0", "null", 1), "visual_tokens=None, which is no number"),
        ("cost.json", lambda text: '{\n"a": ,}', "cost.json:2 is not JSON"),
        ("config.yaml", lambda text: text.replace("format: 1", "format: 7"), "is of format 7, this version reads 1"),
        ("config.yaml", lambda text: "a: b: c\n", "config.yaml:1 is not plain YAML; remove the folder"),
        ("config.yaml", lambda text: "", "config.yaml holds None where a mapping belongs; remove the folder"),
        ("config.yaml", lambda text: "- format: 1\n", r"config.yaml holds \[.* where a mapping belongs"),
        (
            "config.yaml",
            lambda text: text + "extra: !!python/object:os.system {}\n",
            r"config.yaml:\d+ is not plain YAML",
        ),
        ("config.yaml", lambda text: "a: " + "[" * 3000, "config.yaml"),
        ("config.yaml", lambda text: text.replace("vicuna_v1", "[1, 2]"), "holds conv_mode=.1, 2., which is no text"),
        ("config.yaml", lambda text: "format: 1\nmodel: [a]\n", "holds name=.'a'., which is no text"),
        ("config.yaml", lambda text: "format: 1\n", "full has no 'model' in its config.yaml"),
        ("predictions.jsonl", lambda text: text.replace("{", "", 1), "predictions.jsonl:1 is not a line"),
        ("predictions.jsonl", lambda text: "[" * 100_000 + "\n" + text, "predictions.jsonl:1 is not a line"),
        ("predictions.jsonl", lambda text: '{"key": ["a"]}\n' + text, "predictions.jsonl:1 is not a line"),
        (
            "predictions.jsonl",
            lambda text: text.replace('"label": "Yes"', '"label": 3', 1),
            "jsonl:1 has no text.* label",
        ),
        (
            "predictions.jsonl",
            lambda text: text.replace('"correct": true', '"correct": "x"', 1),
            "jsonl:1 has no.* correct",
        ),
        (
            "predictions.jsonl",
            lambda text: text.replace('"text": "Yes"', '"text": null', 1),
            "predictions.jsonl: .*run it",
        ),
        (
            "predictions.jsonl",
            lambda text: text.replace('"correct": true', '"correct": false', 1),
            r"accuracy 1, predictions.jsonl holds 36 and 0.972222; remove metrics.json",
        ),
    ],
)
def test_a_spoiled_folder_is_named(results, file, change, message):
    spoiled = results / "full" / file
    spoiled.write_text(change(spoiled.read_text()))
    with pytest.raises(ValueError, match=message):
        collect([results])


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run in .*make one with llava.eval.run"):
        collect([tmp_path])

"""From an answers file over MME's text files to the scores that the benchmark's program prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.eval import calculation, convert_answer_to_mme
from llava.eval.tasks.mme import Mme, calculate
from llava.shapes.export import export


@pytest.fixture
def data(tmp_path) -> Path:
    """Two pictures a subtask and an answers file that says "Yes," and a second line to everything."""
    folder = export("mme", tmp_path / "MME", images=2)
    lines = [
        {"question_id": one.question_id, "prompt": one.text, "text": "Yes,\tit is.\nCertainly."}
        for one in Mme(folder).examples
    ]
    (folder / "answers").mkdir()
    (folder / "answers/mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_text_files_are_those_of_the_benchmark(data):
    assert convert_answer_to_mme.main(["--experiment", "mine", "--data", str(data)]) == 0
    folder = data / "eval_tool/answers/mine"
    assert len(list(folder.iterdir())) == 8
    first, second, *_ = (folder / "scene.txt").read_text().splitlines()
    file, question, truth, answer = first.split("\t")
    assert (file, truth, answer) == ("0001.txt", "Yes", "Yes, it is. Certainly.")
    assert question.endswith("? Please answer yes or no.") and "single word" not in question
    assert second.split("\t")[2] == "No"


def test_scores_survive_the_way_over_text_files(data, capsys):
    convert_answer_to_mme.main(["--experiment", "mine", "--data", str(data)])
    found = calculate(data / "eval_tool/answers/mine")
    assert (found["score"], found["max_score"]) == (8 * 50, 1600)
    assert calculation.main(["--results_dir", str(data / "eval_tool/answers/mine")]) == 0
    said = capsys.readouterr().out
    assert "=========== Perception ===========\ntotal score: 300.0 \n\n\t existence  score: 50.0\n" in said
    assert "=========== Cognition ===========\ntotal score: 100.0 \n" in said
    assert "8 of 14 subtasks" in said


def test_subtasks_of_an_earlier_conversion_are_not_scored_along(data):
    old = data / "eval_tool/answers/mine/posters.txt"
    old.parent.mkdir(parents=True)
    old.write_text("1.txt\tq\tYes\tYes\n1.txt\tr\tNo\tNo\n")
    convert_answer_to_mme.main(["--experiment", "mine", "--data", str(data)])
    assert "posters" in calculate(data / "eval_tool/answers/mine")["missing"]


@pytest.mark.parametrize(
    ("experiment", "message"), [("yours", "yours.jsonl does not exist"), ("half", "lacks 1 of the 32")]
)
def test_bad_input_is_named(data, caplog, experiment, message):
    lines = (data / "answers/mine.jsonl").read_text().splitlines(True)
    (data / "answers/half.jsonl").write_text("".join(lines[1:]))
    assert convert_answer_to_mme.main(["--experiment", experiment, "--data", str(data)]) == 2
    assert message in caplog.text


def test_a_folder_without_text_files_is_named(tmp_path, caplog):
    assert calculation.main(["--results-dir", str(tmp_path)]) == 2
    assert "no answer file of MME" in caplog.text


@pytest.mark.parametrize("experiment", ["../../x", "a/../../../x", "/tmp/x"])
def test_an_experiment_stays_in_the_folder_of_answers(data, experiment, caplog):
    assert convert_answer_to_mme.main(["--experiment", experiment, "--data", str(data)]) == 2
    assert f"--experiment {experiment} leads out of" in caplog.text

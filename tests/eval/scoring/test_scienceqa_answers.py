"""ScienceQA's command line prints and writes what LLaVA's does, and the strict accuracy beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llava.eval import eval_science_qa
from llava.eval.scoring import scienceqa


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five problems of two choices, the second true; 1-3 have a picture, 5 has no answer.

    1 "B": right and strict. 2 "The answer is B.": right. 3 "D": beyond the choices, wrong. 4 "B. plum", no picture: right.
    """
    problems = {str(number): {"choices": ["pear", "plum"], "answer": 1} for number in range(1, 6)}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(problems), "mini": ["1"], "none": []}))
    said = ["B", "The answer is B.", "D", "B. plum"]
    lines = [
        {"question_id": str(number), "prompt": "Which?" if number == 4 else "<image>\nWhich?", "text": text}
        for number, text in enumerate(said, start=1)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def command(folder: Path, *more: str) -> list[str]:
    return ["--base-dir", str(folder), "--result-file", str(folder / "answers.jsonl"), *more]


def test_prints_both_accuracies(folder, capsys, caplog):
    assert eval_science_qa.main(command(folder)) == 0
    official, strict = capsys.readouterr().out.splitlines()
    assert official == "Total: 5, Correct: 3, Accuracy: 60.00%, IMG-Accuracy: 66.67%"
    assert strict == "Strict: Total: 5, Correct: 1, Accuracy: 20.00%, IMG-Accuracy: 33.33%"
    assert "1 of the 5 questions of the split have no answer" in caplog.text


def test_writes_both_files(folder):
    output, result = folder / "out.json", folder / "result.json"
    assert eval_science_qa.main(command(folder, "--output-file", str(output), "--output_result", str(result))) == 0
    found = json.loads(output.read_text())
    assert [one["question_id"] for one in found["correct"]] == ["1", "2", "4"]
    assert found["incorrect"][0] == {
        "question_id": "3",
        "parsed_ans": "D",
        "ground_truth": "B",
        "question": "<image>\nWhich?",
        "pred": "D",
        "is_multimodal": True,
    }
    assert found["incorrect"][1]["parsed_ans"] == "FAILED" and not found["incorrect"][1]["is_multimodal"]
    assert json.loads(result.read_text()) == {
        "acc": 60,
        "strict_acc": 20,
        "correct": 3,
        "count": 5,
        "results": {"1": 1, "2": 1, "3": -1, "4": 1, "5": -1},
        "outputs": {"1": "B", "2": "The answer is B.", "3": "D", "4": "B. plum", "5": "FAILED"},
    }


def test_no_picture_at_all_is_said_and_not_divided_by(folder, capsys):
    (folder / "answers.jsonl").write_text(json.dumps({"question_id": "1", "prompt": "Which?", "text": "B"}))
    assert eval_science_qa.main(command(folder, "--split", "mini")) == 0
    assert "Accuracy: 100.00%, IMG-Accuracy: none has a picture" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "line", "message"),
    [
        (["--split", "dev"], None, "--split dev is not in .*pid_splits.json, which has 'test', 'mini', 'none'"),
        (["--split", "none"], None, "--split none is empty"),
        (["--split", "mini"], None, "answers.jsonl:2 answers question '2', which is not in the split"),
        (["--options", "A"], None, "--options A are too few for the 2 choices of 1"),
        ([], {"question_id": 1, "prompt": "", "text": ""}, "answers.jsonl:5 answers question 1 a second time"),
    ],
)
def test_bad_input_is_named(folder, caplog, more, line, message):
    if line:
        with open(folder / "answers.jsonl", "a") as file:
            file.write(json.dumps(line))
    assert eval_science_qa.main(command(folder, *more)) == 2
    assert re.search(message, caplog.text)


def test_a_problem_without_truth_is_named(folder):
    (folder / "problems.json").write_text(json.dumps({"1": {"choices": ["pear"], "answer": 1}}))
    with pytest.raises(ValueError, match="problem '1': answer=1 is no index of its 1 choices"):
        scienceqa.read_split(folder, "mini", "ABCDE")

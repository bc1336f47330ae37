"""An answers file is scored as what it is: each answer at its question, and nothing scored where one does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava.eval.scoring import eval_answers
from llava.eval.scoring.eval_answers import lines_of
from llava.eval.tasks.base import Example, get_task
from llava.shapes.export import export


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {name: export(name, folder / name, images=2) for name in ("mme", "scienceqa", "textvqa", "gqa", "vqav2")}


def written(folder: Path, name: str, data: Path, reply: Callable[[Example], str] = lambda one: one.label) -> Path:
    """An answers file of every question, the last question first."""
    task = get_task(name)(data)
    lines = [
        {"question_id": one.question_id, "prompt": task.prompt(one), "text": reply(one)}
        for one in reversed(task.examples)
    ]
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize("name", ["mme", "scienceqa", "textvqa", "gqa", "vqav2"])
def test_answers_find_their_questions_in_any_order(data, tmp_path, name):
    task = get_task(name)(data[name])
    lines = lines_of(task, written(tmp_path, name, data[name]))
    assert [line["key"] for line in lines] == [example.key for example in task.examples]
    assert all(line["correct"] for line in lines)


def test_a_picture_that_failed_is_wrong_whatever_it_says(data, tmp_path):
    file = written(tmp_path, "mme", data["mme"])
    first, *rest = file.read_text().splitlines()
    failed = {**json.loads(first), "metadata": {"error": "torn"}}
    file.write_text("\n".join([json.dumps(failed), *rest]))
    lines = lines_of(get_task("mme")(data["mme"]), file)
    assert [line["correct"] for line in lines].count(False) == 1
    assert lines[-1]["error"] == "torn"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[:-1], "lacks 1 of the 8 answers, the first to 00000001"),
        (lambda lines: [], "lacks 8 of the 8 answers"),
        (lambda lines: [*lines, lines[0]], "jsonl:9 answers a second time what line 1 does"),
        (lambda lines: [*lines, lines[0].replace("00000008", "00000009")], "jsonl:9 answers .* of 00000009, which .*"),
        (lambda lines: [lines[0].replace("Is there", "Was there"), *lines[1:]], "jsonl:1 answers 'Was there"),
        (lambda lines: [lines[0], "oops", *lines[1:]], "jsonl:2 is not JSON"),
        (lambda lines: [lines[0], '{"question_id": "1"}'], "jsonl:2 lacks prompt, text"),
    ],
)
def test_what_does_not_fit_is_named(data, tmp_path, spoil, message):
    file = written(tmp_path, "gqa", data["gqa"])
    file.write_text("".join(line + "\n" for line in spoil(file.read_text().splitlines())))
    with pytest.raises(ValueError, match=message):
        lines_of(get_task("gqa")(data["gqa"]), file)


def test_a_prompt_of_no_known_layout_is_named(data, tmp_path):
    file = written(tmp_path, "textvqa", data["textvqa"])
    file.write_text(file.read_text().replace("\\n", " "))
    with pytest.raises(ValueError, match="answers.jsonl:1: the prompt"):
        lines_of(get_task("textvqa")(data["textvqa"]), file)


def test_the_command_line_prints_and_writes(data, tmp_path, capsys):
    file, output = written(tmp_path, "gqa", data["gqa"], lambda one: "yes"), tmp_path / "metrics.json"
    command = ["--task", "gqa", "--data", str(data["gqa"]), "--result-file", str(file), "--output_file", str(output)]
    assert eval_answers.main(command) == 0
    said = capsys.readouterr().out
    assert "gqa: score 25.00 of 100 [" in said and "8 questions about 2 pictures" in said
    assert "verify" in said and "50.00" in said
    assert json.loads(output.read_text())["score"] == 25


@pytest.mark.parametrize(
    ("task", "message"), [("gqua", "did you mean 'gqa'"), ("pope", "llava_pope_test.jsonl does not exist")]
)
def test_the_command_line_says_what_is_wrong(data, tmp_path, caplog, task, message):
    command = ["--task", task, "--data", str(data["gqa"]), "--result-file", str(tmp_path / "none.jsonl")]
    assert eval_answers.main(command) == 2
    assert message in caplog.text

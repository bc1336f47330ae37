"""TextVQA's command line prints what LLaVA's does, for one answers file or a folder of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.eval import eval_textvqa
from llava.eval.scoring import textvqa

SHORT = "Answer the question using a single word or phrase."


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two questions about one picture; "stop" has 1.0 of the first, 0.3 of the second."""
    data = [
        {"image_id": "a", "question": "What does it say?", "answers": ["stop"] * 10},
        {"image_id": "a", "question": "Which word?", "answers": ["stop"] + ["go"] * 9},
    ]
    (tmp_path / "val.json").write_text(json.dumps({"data": data}))
    write(tmp_path / "one.jsonl", ["What does it say?", "Which word?"])
    return tmp_path


def write(file: Path, questions: list[str], picture: str = "a") -> None:
    prompts = [f"{question}\nReference OCR token: STOP\n{SHORT}" for question in questions]
    lines = [{"question_id": picture, "prompt": prompt, "text": "Stop."} for prompt in prompts]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_prints_samples_and_accuracy(folder, capsys):
    command = ["--annotation-file", str(folder / "val.json"), "--result-file", str(folder / "one.jsonl")]
    assert eval_textvqa.main(command) == 0
    assert capsys.readouterr().out == "one\nSamples: 2\nAccuracy: 65.00%\n\n"


def test_a_folder_is_every_answers_file_in_it_and_a_part_is_said(folder, capsys, caplog):
    write(folder / "two.jsonl", ["Which word?"])
    assert eval_textvqa.main(["--annotation_file", str(folder / "val.json"), "--result_dir", str(folder)]) == 0
    assert capsys.readouterr().out == "one\nSamples: 2\nAccuracy: 65.00%\n\ntwo\nSamples: 1\nAccuracy: 30.00%\n\n"
    assert "two.jsonl answers 1 of the 2 annotated questions" in caplog.text


@pytest.mark.parametrize(
    ("questions", "picture", "message"),
    [
        (["Which word?", "Which word?"], "a", "jsonl:2 answers a second time 'which word\\?' about a"),
        (["Which word?"], "b", "jsonl:1 answers 'which word\\?' about b, which the annotations do not have"),
        (["Which\nword?"], "a", "jsonl:1: the prompt"),
        ([], "a", "holds no answer"),
    ],
)
def test_what_does_not_fit_is_named(folder, questions, picture, message):
    write(folder / "bad.jsonl", questions, picture)
    with pytest.raises(ValueError, match=message):
        textvqa.credits(folder / "bad.jsonl", textvqa.read_truth(folder / "val.json"))


def test_an_answers_file_must_be_given(folder, caplog):
    assert eval_textvqa.main(["--annotation-file", str(folder / "val.json")]) == 2
    assert "give --result-file, or --result-dir" in caplog.text

"""What is handed to GQA's own program and to VQAv2's server."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lay(file: Path, *lines: dict) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_gqa(tmp_path):
    answers = lay(tmp_path / "merge.jsonl", {"question_id": "07", "text": "A Red car.", "prompt": "?"})
    assert script("convert_gqa_for_eval").main(["--src", str(answers), "--dst", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == [{"questionId": "07", "prediction": "a red car"}]


@pytest.mark.parametrize("split", ["llava_vqav2_mscoco_test-dev2015", "llava_vqav2_mscoco_val2014"])
def test_vqav2_answers_every_question_of_the_split(tmp_path, split):
    """The server wants one for each question of the whole test split; those that were not asked are empty."""
    lay(tmp_path / "answers" / split / "mine" / "merge.jsonl", {"question_id": 2, "text": "The two T-shirts."})
    lay(tmp_path / f"{split}.jsonl", {"question_id": 2})
    lay(tmp_path / "llava_vqav2_mscoco_test2015.jsonl", {"question_id": 1}, {"question_id": 2})
    command = ["--dir", str(tmp_path), "--split", split, "--ckpt", "mine"]
    assert script("convert_vqav2_for_submission").main(command) == 0
    found = json.loads((tmp_path / "answers_upload" / split / "mine.json").read_text())
    asked = {"question_id": 2, "answer": "2 t shirts"}
    assert found == ([{"question_id": 1, "answer": ""}, asked] if "test" in split else [asked])


def test_what_is_missing_is_named(tmp_path, caplog):
    assert script("convert_gqa_for_eval").main(["--src", str(tmp_path / "no.jsonl"), "--dst", "x"]) == 2
    assert "no.jsonl does not exist" in caplog.text
    lay(tmp_path / "bad.jsonl", {"text": "?"})
    assert script("convert_gqa_for_eval").main(["--src", str(tmp_path / "bad.jsonl"), "--dst", "x"]) == 2
    assert "bad.jsonl:1 lacks question_id" in caplog.text

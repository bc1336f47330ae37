"""What is handed to GQA's own program and to the servers of VQAv2 and MMBench."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import openpyxl
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


MMBENCH = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsplit\n"


def mmbench(folder: Path, *answers: dict) -> int:
    """The exit status of converting these answers to two questions."""
    table = folder / "dev.tsv"
    table.write_text(
        f'{MMBENCH}7\t"two\nlines"\tNone\t=1\t2\tNA\t\tA\tc\tAAAA\tdev\n8\tq\th\ta\tb\tc\td\tB\tc\tAAAA\tdev\n'
    )
    lay(folder / "answers/mine.jsonl", *answers)
    places = ["--annotation-file", table, "--result-dir", folder / "answers", "--upload-dir", folder / "new/upload"]
    return script("convert_mmbench_for_submission").main([*map(str, places), "--experiment", "mine"])


def test_mmbench_is_the_table_with_predictions(tmp_path):
    first = {"question_id": 7, "round_id": 0, "text": "=A\x00"}
    assert mmbench(tmp_path, first, {"question_id": 7, "round_id": 1, "text": "B"}) == 0
    sheet = openpyxl.load_workbook(tmp_path / "new/upload/mine.xlsx")["Sheet1"]
    assert [list(row) for row in sheet.iter_rows(values_only=True)] == [
        ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"],
        [7, "two\nlines", "=1", "2", None, None, "=A", "A", "dev"],
        [8, "q", "a", "b", "c", "d", None, "B", "dev"],
    ]
    assert {sheet["C2"].data_type, sheet["G2"].data_type} == {"s"}


def test_mmbenchs_answers_to_no_question_are_named(tmp_path, caplog):
    assert mmbench(tmp_path, {"question_id": 9, "text": "A"}) == 2
    assert "mine.jsonl:1 answers question 9, which" in caplog.text


def test_mmbench_names_the_package_that_it_needs(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert mmbench(tmp_path) == 2 and "pip install 'llava-condense[eval]'" in caplog.text

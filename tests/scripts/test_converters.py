"""What is handed to the programs and servers of the benchmarks that score answers themselves."""

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


def test_mmvet(tmp_path):
    answers = lay(tmp_path / "mine.jsonl", {"question_id": 0, "text": "x = é"}, {"question_id": "7", "text": ""})
    upload = tmp_path / "results/mine.json"
    assert script("convert_mmvet_for_eval").main(["--src", str(answers), "--dst", str(upload)]) == 0
    assert json.loads(upload.read_text()) == {"v1_0": "x = é", "v1_7": ""}


def convert(name: str, annotations: Path, answers: Path, upload: Path) -> int:
    places = ["--annotation-file", annotations, "--result-file", answers, "--result-upload-file", upload]
    return script(f"convert_{name}_for_submission").main([*map(str, places)])


def test_vizwiz_answers_every_question_of_the_split_in_its_order(tmp_path, caplog):
    split = lay(tmp_path / "test.jsonl", *({"question_id": f"{name}.jpg", "image": f"{name}.jpg"} for name in "ab"))
    said = {"a": "The two T-shirts.", "b": "Unanswerable"}
    lines = [{"question_id": f"{name}.jpg", "text": said[name]} for name in "ba"]
    upload = tmp_path / "upload/mine.json"
    assert convert("vizwiz", split, lay(tmp_path / "mine.jsonl", *lines), upload) == 0
    wanted = [{"image": "a.jpg", "answer": "2 t shirts"}, {"image": "b.jpg", "answer": "unanswerable"}]
    assert json.loads(upload.read_text()) == wanted
    assert convert("vizwiz", split, lay(tmp_path / "mine.jsonl", lines[0]), upload) == 2
    assert "mine.jsonl has no answer to question a.jpg" in caplog.text


def test_seed_is_scored_by_kind_and_converted(tmp_path, capsys, caplog):
    """The fourth question, about a video, has no answer."""
    kinds, media, truth = [1, 1, 2, 2], ["image", "image", "image", "video"], "ABCD"
    fields = ("question_id", "question_type_id", "data_type", "answer")
    questions = [dict(zip(fields, values)) for values in zip(["10", "11", "v2_3", "13"], kinds, media, truth)]
    annotations = tmp_path / "SEED-Bench.json"
    annotations.write_text(json.dumps({"questions": questions, "question_type": {"Scene": 1, "Action": 2, "None": 3}}))
    lines = [{"question_id": name, "text": text} for name, text in ((10, "A"), (11, "C"), ("v2_3", "C"))]
    upload = tmp_path / "upload/mine.jsonl"
    assert convert("seed", annotations, lay(tmp_path / "mine.jsonl", *lines), upload) == 0
    printed = ["Total accuracy: 50.00%", "image: 66.67%", "video: 0.00%", "Scene: 50.00%", "Action: 50.00%"]
    assert capsys.readouterr().out.splitlines() == printed and "1 of 4 questions have no answer" in caplog.text
    uploaded = [json.loads(line) for line in upload.read_text().splitlines()]
    assert uploaded == [{"question_id": line["question_id"], "prediction": line["text"]} for line in lines]
    annotations.write_text(json.dumps({"questions": []}))
    assert convert("seed", annotations, tmp_path / "mine.jsonl", upload) == 2 and "holds no question" in caplog.text

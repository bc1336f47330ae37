"""MMBench's answers: pictures in the table, prompts, rounds of rotated options, chunks, and what is no question."""

from __future__ import annotations

import base64
import csv
import json
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from llava.constants import LETTER_ANSWER
from llava.eval import model_vqa_mmbench
from llava.eval.ask.opening import Checkpoint
from llava.eval.model_vqa_mmbench import get_options, is_none
from tests.conftest import PARITY15
from tests.eval.stubs import StubSubject

COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
FIELDS = "question_id round_id prompt text options option_char answer_id model_id metadata".split()


def picture(colour: str) -> str:
    """A drawn disc in base64."""
    image = Image.new("RGB", (40, 30), "white")
    ImageDraw.Draw(image).ellipse((10, 5, 30, 25), fill=colour)
    stream = BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


RED, BLUE = picture("red"), picture("blue")
ROWS: list[list[object]] = [
    [7, "Which\ncolour?", "", "red", "blue", "NA", "", "A", "colour", RED],
    [8, 'What "shape"?', "Look.", "disc", "square", "star", "cone", "A", "shape", BLUE],
    [1000007, "Which?", "nan", "blue", "red", "", "", "B", "colour", "7"],
]


def write(file: Path, rows: list[list[object]], columns: list[str] = COLUMNS) -> Path:
    with open(file, "w", newline="", encoding="utf-8") as out:
        csv.writer(out, dialect="excel-tab").writerows([columns, *rows])
    return file


@pytest.fixture
def table(tmp_path) -> Path:
    return write(tmp_path / "dev.tsv", ROWS)


@pytest.fixture
def stub(monkeypatch) -> StubSubject:
    """Answers with what stands behind the letter A."""
    subject = StubSubject(lambda text: text.partition("\nA. ")[2].partition("\n")[0])
    monkeypatch.setattr(Checkpoint, "subject", lambda checkpoint: subject)
    return subject


def command(table: Path, answers: Path, *more: str) -> list[str]:
    given = ["--model-path", PARITY15 / "checkpoint", "--question-file", table, "--answers-file", answers]
    return [*map(str, given), "--conv-mode", "vicuna_v1", "--temperature", "0", *more]


def ask(table: Path, name: str, *more: str) -> list[dict]:
    answers = table.with_name(name)
    assert model_vqa_mmbench.main(command(table, answers, *more)) == 0
    return [json.loads(line) for line in answers.read_text().splitlines()]


def test_prompts_are_hint_question_and_options(table, stub):
    found = ask(table, "out.jsonl")
    assert [list(line) for line in found] == [FIELDS] * 3
    assert [line["question_id"] for line in found] == [7, 8, 1000007]
    assert found[0]["prompt"] == "Which\ncolour?\nA. red\nB. blue"
    assert found[1]["prompt"] == 'Look.\nWhat "shape"?\nA. disc\nB. square\nC. star\nD. cone'
    assert found[2]["prompt"] == "Which?\nA. blue\nB. red"
    assert [line["text"] for line in found] == ["red", "disc", "blue"]
    assert {line["round_id"] for line in found} == {0} and found[0]["option_char"] == ["A", "B"]
    assert sorted(stub.asked) == sorted(line["prompt"] for line in found)
    assert stub.encoded == [(40, 30)] * 2  # the third has the first one's picture


@pytest.mark.parametrize(("lang", "said"), [("en", LETTER_ANSWER), ("cn", "请直接回答选项字母。")])
def test_the_letter_alone_is_asked_for_and_not_recorded(table, stub, lang, said):
    found = ask(table, "out.jsonl", "--single-pred-prompt", "--lang", lang)
    assert sorted(stub.asked) == sorted(f"{line['prompt']}\n{said}" for line in found)
    assert all(said not in line["prompt"] for line in found)


def test_rounds_rotate_the_options_and_each_stands_first_once(table, stub):
    found = ask(table, "out.jsonl", "--all-rounds")
    assert [(line["question_id"], line["round_id"]) for line in found] == [
        *((7, 0), (7, 1)), *((8, number) for number in range(4)), *((1000007, 0), (1000007, 1)),
    ]  # fmt: skip
    assert [line["text"] for line in found] == ["red", "blue", "disc", "square", "star", "cone", "blue", "red"]
    for line in found:
        shown = [f"{letter}. {option}" for letter, option in zip("ABCD", line["options"])]
        assert line["prompt"].endswith("\n".join(shown))
        row = next(row for row in ROWS if row[0] == line["question_id"])
        assert [row[COLUMNS.index(letter)] for letter in line["option_char"]] == line["options"]
    assert len(stub.encoded) == 2


@pytest.mark.parametrize("count", [2, 3, 5])
def test_chunks_together_are_the_whole(table, stub, count):
    def plain(lines: list[dict]) -> list[dict]:
        return [{name: line[name] for name in FIELDS[:6]} for line in lines]

    whole = plain(ask(table, "whole.jsonl", "--all-rounds"))
    parts = [
        plain(ask(table, f"{number}.jsonl", "--all-rounds", "--num-chunks", str(count), "--chunk-idx", str(number)))
        for number in range(count)
    ]
    assert sum(parts, []) == whole
    ids = [{line["question_id"] for line in part} for part in parts]
    assert sum(map(len, ids)) == 3


@pytest.mark.parametrize("other", [["--all-rounds"], ["--single-pred-prompt"], ["--num-chunks", "2"]])
def test_answers_of_other_settings_are_not_mixed(table, stub, caplog, other):
    ask(table, "out.jsonl")
    assert model_vqa_mmbench.main(command(table, table.with_name("out.jsonl"), *other)) == 2
    assert "another configuration" in caplog.text


def test_what_is_no_picture_fails_its_question_only(table, stub):
    damaged = base64.b64encode(b"no picture " * 9).decode()
    found = ask(write(table, [ROWS[0], [*ROWS[1][:-1], damaged]]), "out.jsonl")
    assert [line["text"] for line in found] == ["red", ""]
    assert "cannot be read" in found[1]["metadata"]["error"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([7, *ROWS[1][1:]], "dev.tsv:5 has index 7 a second time"),
        ([9, "", *ROWS[1][2:]], "dev.tsv:5 has nothing under question"),
        ([9, "Which?", "", "none", *ROWS[1][4:]], "dev.tsv:5 has nothing under A"),
        ([9, *ROWS[1][1:-1], "11"], "dev.tsv:5: image='11' is neither a picture in base64 nor the index of a row"),
        ([9, *ROWS[1][1:-1]], "dev.tsv:5 has 9 cells under 10 columns"),
    ],
)
def test_bad_rows_are_named(table, stub, caplog, row, message):
    write(table, [*ROWS[:2], row])  # the first row has two lines
    assert model_vqa_mmbench.main(command(table, table.with_name("out.jsonl"))) == 2
    assert message in caplog.text and not stub.asked


@pytest.mark.parametrize(
    ("columns", "message"), [(COLUMNS[1:], "dev.tsv:1 lacks the columns index"), (None, "dev.tsv holds no question")]
)
def test_bad_tables_are_named(table, caplog, columns, message):
    write(table, [] if columns is None else [row[1:] for row in ROWS], columns or COLUMNS)
    assert model_vqa_mmbench.main(command(table, table.with_name("out.jsonl"))) == 2
    assert message in caplog.text


def test_a_chunk_that_is_none(table, caplog):
    assert model_vqa_mmbench.main(command(table, table.with_name("out.jsonl"), "--chunk-idx", "1")) == 2
    assert "--chunk-idx 1 of --num-chunks 1 is no chunk" in caplog.text


def test_options_end_at_the_first_that_is_missing():
    assert get_options({"A": "Na", "B": 2, "C": float("nan"), "D": "d"}, "ABCD") == ["Na", 2]
    assert [is_none(value) for value in (None, "None", "nan", float("nan"), "", "no", 0)] == [True] * 5 + [False] * 2


def test_the_model_answers_under_a_plan(table):
    found = ask(table, "out.jsonl", "--reduction", "fastv@1:64", "--max-new-tokens", "2", "--device", "cpu")
    assert [line["metadata"]["kept"] for line in found] == [[576, *[64] * 7]] * 3

"""Hard and easy questions of a control: by hand, for any task, and which control each plan is split by."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from llava.eval.report.command import main
from llava.eval.report.notes import notes
from llava.eval.report.runs import collect
from llava.eval.report.table import columns
from llava.eval.tasks.gqa import Gqa
from llava.eval.tasks.statistics import bootstrap
from tests.eval.folders import make_run, questions

KEYS = questions(pictures=4, subtasks=("existence", "count"))  # 16 questions about 8 pictures
CONTROL = [*KEYS[:5], KEYS[8]]  # what the control answers wrongly: six, of four pictures


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root, "full", [KEYS[0]], keys=KEYS)
    make_run(root, "downsample:324", CONTROL, keys=KEYS)
    make_run(root, "fastv@2:64", [KEYS[0], KEYS[1], KEYS[8], KEYS[15]], keys=KEYS)
    make_run(root, "fastv@2:16", KEYS[2:10], tokens=16, keys=KEYS)
    return root


def by_plan(*paths: Path, split_by: str) -> dict:
    return {row.plan: row for row in collect(paths, split_by=split_by)[0]}


@pytest.mark.parametrize("kind", [None, Gqa], ids=["mme", "gqa"])
def test_accuracy_on_both_sides_by_hand(made, tmp_path, kind):
    """Of the control's 6 wrong and 10 right questions fastv@2:64 has 3 and 9 right, full 5 and 10, the control 0 and all."""
    root = made
    if kind:
        root = tmp_path
        make_run(root, "full", [KEYS[0]], keys=KEYS, kind=kind)
        make_run(root, "downsample:324", CONTROL, keys=KEYS, kind=kind)
        make_run(root, "fastv@2:64", [KEYS[0], KEYS[1], KEYS[8], KEYS[15]], keys=KEYS, kind=kind)
    rows = by_plan(root, split_by=str(root / "downsample-324"))
    shares = {plan: (row.split.hard.accuracy, row.split.easy.accuracy) for plan, row in rows.items()}
    assert shares["fastv@2-64"] == pytest.approx((3 / 6, 9 / 10))
    assert shares["full"] == pytest.approx((5 / 6, 1)) and shares["downsample-324"] == (0, 1)
    split = rows["fastv@2-64"].split
    assert (split.control, split.hard.questions, split.easy.questions) == ("downsample-324", 6, 10)
    for part in (split.hard, split.easy):
        low, high = part.accuracy_interval
        assert 0 <= low < part.accuracy < high <= 1


def test_the_interval_counts_pictures_not_questions(made):
    """The six hard questions are of four pictures: their interval is that of 3 of 6 in groups of 2, 2, 1, 1."""
    part = by_plan(made, split_by=str(made / "downsample-324"))["fastv@2-64"].split.hard
    # In order of the key count comes first: 0 of its one; then existence 0 of 2, 2 of 2, 1 of 1.
    assert part.accuracy_interval == pytest.approx(bootstrap([0, 0, 2, 1], [1, 2, 2, 1], limit=1.0))


def test_a_method_gives_each_plan_the_control_of_its_cost(made, tmp_path):
    """fastv@2:64 costs 320 tokens a layer, fastv@2:16 296, full 576, blind none; the controls cost 320 and 538."""
    alone = by_plan(made, split_by="downsample")
    assert alone["full"].split.control == "downsample-324"  # the only control there is
    make_run(tmp_path, "downsample:529", KEYS[:1], tokens=500, keys=KEYS)
    make_run(tmp_path, "blind", KEYS[::2], keys=KEYS)
    rows = by_plan(made, tmp_path, split_by="downsample")
    assert rows["fastv@2-64"].split.control == rows["fastv@2-16"].split.control == "downsample-324"
    assert rows["full"].split.control == "downsample-529" and rows["blind"].split is None


def test_columns_and_notes(made, tmp_path):
    rows, _ = collect([made], split_by="downsample")
    shown = {column.head: list(map(str, column.cells)) for column in columns(rows)}
    place = [row.plan for row in rows].index("fastv@2-64")
    assert shown["hard % [95 %]"][place].startswith("50.0 [") and shown["hard % [95 %]"][place].endswith(
        "(6 questions)"
    )
    assert shown["easy % [95 %]"][place].startswith("90.0 [") and "split by" not in shown
    assert any("the questions that downsample-324 answers wrongly" in note for note in notes(rows))
    make_run(tmp_path, "downsample:529", KEYS[:1], tokens=500, keys=KEYS)
    make_run(tmp_path, "blind", KEYS[::2], keys=KEYS)
    rows, _ = collect([made, tmp_path], split_by="downsample")
    assert "split by" in {column.head for column in columns(rows)}
    assert any(note.endswith("cost and questions: blind.") for note in notes(rows))


def test_a_side_without_a_question_is_empty(made):
    perfect = make_run(made.parent / "perfect", "grid:4", keys=KEYS)
    rows, _ = collect([made], split_by=str(perfect))
    assert all(row.split.hard is None and row.split.easy.questions == 16 for row in rows)
    assert {str(cell) for column in columns(rows) if column.head.startswith("hard") for cell in column.cells} == {"-"}


def test_the_command_line_writes_the_split(made, tmp_path):
    command = [str(made), "--split-by", str(made / "downsample-324"), "--output", str(tmp_path), "--margin", "5"]
    assert main(command) == 0
    held = {row["plan"]: row for row in json.loads((tmp_path / "report.json").read_text())}
    assert held["fastv@2-64"]["split"]["hard"]["accuracy"] == 0.5 and held["fastv@2-64"]["vs_full"]["margin"] == 5
    with open(tmp_path / "report.csv", newline="") as file:
        record = next(row for row in csv.DictReader(file) if row["plan"] == "fastv@2-64")
    assert float(record["split_hard_accuracy_low"]) < 0.5 and record["split_easy_questions"] == "10"
    assert "(6 questions)" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("split_by", "message"),
    [("no_such_method", "--split-by no_such_method splits no run"), ("random@2", "has 2 seeds")],
)
def test_a_control_that_cannot_split(made, tmp_path, caplog, split_by, message):
    for seed in (0, 1):
        make_run(tmp_path, f"random@2:64,seed={seed}" if seed else "random@2:64", KEYS[:8], keys=KEYS)
    assert main([str(made), str(tmp_path), "--split-by", split_by, "--output", str(tmp_path / "out")]) == 2
    assert message in caplog.text


def test_other_questions_are_not_split(made, tmp_path, caplog):
    other = make_run(tmp_path, "downsample:324", keys=KEYS[:8])
    assert main([str(made), "--split-by", str(other), "--output", str(tmp_path / "out")]) == 2
    assert "that was asked the same questions" in caplog.text

"""Means of ratios over benchmarks, and what a comparison could find and shows to be equivalent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava.eval.report.command import main
from llava.eval.report.files import write
from llava.eval.report.notes import notes
from llava.eval.report.relative import relatives
from llava.eval.report.rows import compared
from llava.eval.report.runs import collect
from llava.eval.report.table import columns
from llava.eval.tasks.gqa import Gqa
from tests.eval.folders import make_run, questions

KEYS = questions(pictures=10, subtasks=("existence",))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root / "mme", "full", KEYS[:2], keys=KEYS)
    make_run(root / "mme", "fastv@2:64", KEYS[:6], keys=KEYS)
    make_run(root / "mme", "pool:16", KEYS[:6], keys=KEYS)
    make_run(root / "gqa", "full", KEYS[:4], keys=KEYS, kind=Gqa)
    make_run(root / "gqa", "fastv@2:64", KEYS[:8], keys=KEYS, kind=Gqa)
    return root


def test_the_mean_of_two_ratios_by_hand(made):
    """MME: 7 of 10 pictures against 9, both answers each: 0.7778; GQA: 12 of 20 against 16: 0.75; mean 0.7639."""
    (mean,) = relatives(collect([made])[0])
    assert mean.plan == "fastv@2-64" and mean.ratios == pytest.approx({"gqa": 0.75, "mme": 7 / 9})
    assert mean.ratio == pytest.approx((0.75 + 7 / 9) / 2)
    assert mean.ratio_interval[0] < mean.ratio < mean.ratio_interval[1]


def test_a_plan_that_lacks_a_benchmark_has_no_mean(made, tmp_path):
    make_run(tmp_path / "pope", "full", keys=KEYS, kind=Gqa)
    rows, _ = collect([made, tmp_path])
    # By its folder: the workers of a parallel run have "popen" in every path
    third = [replace(row, task="pope") if Path(row.folders[0]).parent.name == "pope" else row for row in rows]
    (mean,) = relatives(third)
    assert len(mean.ratios) == 2 and mean.ratio is mean.ratio_interval is None


def test_other_checkpoints_are_not_paired(made, tmp_path):
    make_run(tmp_path, "full", keys=KEYS, kind=Gqa, fingerprint="bb")
    make_run(tmp_path / "mme", "full", keys=KEYS, fingerprint="bb")
    rows, _ = collect([made / "gqa/fastv@2-64", made / "mme/fastv@2-64", tmp_path])
    assert relatives(rows) == []


def test_every_file_has_the_means(made, tmp_path):
    files = [file.name for file in write(*_rows(made, tmp_path))]
    assert "relative.json" in files
    (held,) = json.loads((tmp_path / "relative.json").read_text())
    assert held["plan"] == "fastv@2-64" and len(held["ratio_interval"]) == 2
    for name in ("report.md", "report.html"):
        assert "76.4" in (tmp_path / name).read_text()
    assert any(note.startswith("mean of ratios:") for note in notes(collect([made])[0]))
    assert not any(note.startswith("mean of ratios:") for note in notes(collect([made / "mme"])[0]))


def _rows(made: Path, output: Path) -> tuple:
    rows, unfinished = collect([made])
    return rows, output, unfinished


# --------------------------------------------------------------------------------------------- one benchmark, two runs


def test_equal_answers_are_equivalent_within_what_so_few_questions_show(made):
    """20 questions alike: Wilson's bound of 0 of 20 is 1.833^2 / (20 + 1.833^2), 14.4 %; the two pictures more give 15.3."""
    rows, _ = collect([made / "mme"])
    full = next(row for row in rows if row.plan == "full")
    twin = replace(full, plan="twin", method="twin", folders=["elsewhere"])
    for margin, words in ((1.0, "not shown"), (15.0, "not shown"), (16.0, "equivalent within 16 points")):
        versus = next(row for row in compared([full, twin], margin) if row.plan == "twin").vs_full
        assert versus.equivalence == words and versus.margin == margin
    assert versus.shown_within == pytest.approx(100 * 1.833 / 12, abs=0.1)


def test_the_table_and_the_notes_say_it(made):
    rows, _ = collect([made / "mme"])
    shown = next(column for column in columns(rows) if column.head == "equivalent to full")
    assert str(shown.cells[1]).startswith("not shown (shown within ")
    said = "\n".join(notes(rows))
    assert "Equivalent within 1 point of full: not shown for any plan." in said
    assert "Minimum detectable difference of these pairs" in said and "alpha 0.05, power 0.8" in said
    loose = "\n".join(notes(collect([made / "mme"], margin=80)[0]))
    assert "Equivalent within 80 points of full: fastv@2-64, pool-16." in loose
    several = "\n".join(notes(collect([made], margin=80)[0]))
    assert "of full: fastv@2-64 on gqa, fastv@2-64 on mme, pool-16 on mme." in several


def test_nothing_says_lossless(made, tmp_path):
    files = write(*_rows(made, tmp_path))
    assert not any("lossless" in file.read_text() for file in files if file.suffix != ".png")


@pytest.mark.parametrize("margin", ["0", "-1", "nan"])
def test_a_margin_that_is_none(made, tmp_path, caplog, margin):
    assert main([str(made), f"--margin={margin}", "--output", str(tmp_path)]) == 2
    assert "must be above 0" in caplog.text

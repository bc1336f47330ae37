"""Every plan compared with one that a reader names: a plan, a method at the same cost, or the folder of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from llava.eval.report.command import main
from llava.eval.report.notes import notes
from llava.eval.report.runs import collect
from llava.eval.report.table import columns
from tests.eval.folders import make_run, questions

KEYS = questions()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root, "full")
    make_run(root, "fastv@2:64", KEYS[:6])
    make_run(root, "fastv@2:16", KEYS[:14], tokens=16)
    make_run(root, "himap@2:64", KEYS[:2])
    make_run(root, "himap@2:16", KEYS[:24], tokens=16)
    make_run(root, "pool:320", KEYS[:12])  # as dear as those of 64
    return root


def against(name: str, *paths: Path) -> dict:
    """By plan the other plan, and by how much the plan's score is above it; None where they are not compared."""
    rows, _ = collect(paths, against=name)
    return {row.plan: row.vs_named and (row.vs_named.other, round(row.vs_named.score)) for row in rows}


def scores(*paths: Path) -> dict:
    return {row.plan: row.score for row in collect(paths)[0]}


@pytest.mark.parametrize("name", ["fastv@2:64", "fastv@2-64", " fastv@2:64"])
def test_a_plan_is_compared_with_every_other(made, name):
    score = scores(made)
    others = {plan: ("fastv@2-64", round(score[plan] - score["fastv@2-64"])) for plan in score}
    assert against(name, made) == others | {"full": None, "fastv@2-64": None}
    assert others["himap@2-64"][1] > 0 > others["pool-320"][1]


def test_a_method_is_compared_at_the_same_cost(made):
    score = scores(made)
    assert against("fastv@2", made) == {
        "full": None,
        "fastv@2-64": None,
        "fastv@2-16": None,
        "himap@2-64": ("fastv@2-64", round(score["himap@2-64"] - score["fastv@2-64"])),
        "pool-320": ("fastv@2-64", round(score["pool-320"] - score["fastv@2-64"])),
        "himap@2-16": ("fastv@2-16", round(score["himap@2-16"] - score["fastv@2-16"])),
    }


def test_the_folder_of_a_run_from_elsewhere(made, tmp_path):
    make_run(tmp_path, "divprune:64", KEYS[:4])
    make_run(tmp_path / "fewer", "divprune:64", keys=KEYS[:12])
    found = against(str(tmp_path / "divprune-64"), made)
    assert found.pop("full") is None and {other for other, _ in found.values()} == {"divprune-64"}
    with pytest.raises(ValueError, match="--against .*fewer/divprune-64 is compared with no run"):
        collect([made], against=str(tmp_path / "fewer" / "divprune-64"))


def test_all_comparisons_are_one_family(made):
    """The corrected p counts the comparisons with the named plan too, so that none is made unpaid."""
    alone, rows = (collect([made], against=name)[0] for name in (None, "fastv@2:64"))
    made_ones = [side for row in rows for side in (row.vs_full, row.vs_random, row.vs_named) if side]
    assert len(made_ones) == 5 + 4
    smallest = min(made_ones, key=lambda side: side.p)
    assert smallest.p_holm == pytest.approx(9 * smallest.p)
    assert max(row.vs_full.p_holm for row in alone if row.vs_full) <= max(
        row.vs_full.p_holm for row in rows if row.vs_full
    )
    (told,) = [note for note in notes(rows) if note.startswith("vs full, vs random, vs fastv@2-64: paired")]
    assert "correction for 9 comparisons" in told


def test_what_could_not_be_compared_is_said(made, tmp_path):
    make_run(tmp_path, "dart@2:64", keys=KEYS[:12])
    told = notes(collect([made, tmp_path], against="fastv@2:64")[0])
    assert "Not compared with fastv@2-64, since that run had other questions (36, not 12): dart@2-64." in told


def test_table_and_files(made, tmp_path):
    heads = {column.head for column in columns(collect([made], against="fastv@2")[0])}
    assert "vs fastv@2" in heads and "vs " not in {column.head for column in columns(collect([made])[0])}
    assert main([str(made), "--against", "fastv@2:64", "--output", str(tmp_path)]) == 0
    table = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| vs fastv@2-64 |" in table and "vs fastv@2-64" in (tmp_path / "report.html").read_text(encoding="utf-8")
    held = {row["plan"]: row for row in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))}
    assert held["pool-320"]["vs_named"]["other"] == "fastv@2-64" and "vs_named" not in held["full"]
    with (tmp_path / "report.csv").open(encoding="utf-8") as file:
        lines = {line["plan"]: line for line in csv.DictReader(file)}
    assert lines["pool-320"]["vs_named_other"] == "fastv@2-64" and lines["full"]["vs_named_other"] == ""
    assert main([str(made), "--output", str(tmp_path)]) == 0
    assert "named" not in (tmp_path / "report.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fastv@2:63", "cost; did you mean 'fastv@2' or 'fastv@2-64'?"),
        ("no_such:64", "another's cost\n"),
    ],
)
def test_a_name_that_nothing_has(made, tmp_path, caplog, name, message):
    assert main([str(made), "--against", name, "--output", str(tmp_path)]) == 2
    assert message in caplog.text and not list(tmp_path.iterdir())

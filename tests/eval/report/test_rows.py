"""Runs read back: order, seeds together, comparisons with full and with random at the same cost, and spoiled folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from llava.eval.report.rows import Row, boards
from llava.eval.report.runs import collect
from tests.eval.folders import make_run, questions

KEYS = questions()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root, "full")
    make_run(root, "fastv@2:64", KEYS[:6], timed=True)
    for seed in (0, 1, 2):
        option = f",seed={seed}" if seed else ""
        make_run(root, f"random@2:64{option}", KEYS[: 10 + 4 * seed])
    make_run(root, "random@2:16", KEYS[:20], tokens=16)
    make_run(root, "pool:320", KEYS[:12])  # 320 = the mean of 576, 576, 64, 64: as dear as fastv@2:64
    make_run(root, "blind", KEYS[::2])
    return root


@pytest.fixture
def results(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def by_plan(*folders: Path) -> dict:
    return {row.plan: row for row in collect(folders)[0]}


def test_rows_are_sorted_by_cost_then_score(made):
    rows, unfinished = collect([made])
    assert [row.plan for row in rows] == [
        "full", "fastv@2-64", "pool-320", "random@2-64", "random@2-16", "blind",
    ]  # fmt: skip
    assert not unfinished and list(boards(rows)) == [("mme", "llava-shapes-v1")]


def test_costs_and_scores_of_a_row(made):
    """Three questions in each of two pictures... KEYS[:6] are all six of the first three pictures of existence.

    Existence: acc 6/12 and acc+ 3/6, so 100 of 200, and 200 each for the two other subtasks.
    """
    row = by_plan(made)["fastv@2-64"]
    assert row.score == 500 and row.max_score == 600 and row.accuracy == pytest.approx(30 / 36)
    assert row.subtasks == {"existence": 100, "count": 200, "commonsense_reasoning": 200} and row.subtask_max == 200
    assert row.visual_tokens == 320 and row.gflops == pytest.approx(14.8) and row.kv_mb == pytest.approx(12.8)
    assert (row.ms, row.tower_ms, row.prefill_ms) == pytest.approx((40, 9, 30)) and row.decode_ms == pytest.approx(10)


def test_seeds_are_one_row_with_mean_and_deviation(made):
    """KEYS[:10], [:14], [:18]: 1/6 of existence left, then none and one picture of count gone, then three.

    Scores 200 * (1/6 + 1 + 1) = 433.3, 200 * (5/6 + 1) = 366.7, 200 * (3/6 + 1) = 300: mean 366.7, deviation 66.7.
    """
    row = by_plan(made)["random@2-64"]
    assert row.seeds == 3 and row.method == "random@2" and len(row.folders) == 3
    assert row.score == pytest.approx(1100 / 3) and row.score_sd == pytest.approx(200 / 3)
    assert row.score_interval[0] < row.score < row.score_interval[1]
    assert row.subtasks["count"] == pytest.approx((200 + 500 / 3 + 100) / 3)
    assert by_plan(made)["random@2-16"].seeds == 1


def test_random_is_that_of_the_same_mean_tokens(made):
    rows = by_plan(made)
    assert rows["fastv@2-64"].vs_random.other == "random@2-64"
    assert rows["fastv@2-64"].vs_random.score == pytest.approx(500 - 1100 / 3)
    assert rows["fastv@2-64"].vs_random.verdict == "better"
    assert rows["pool-320"].vs_random.other == "random@2-64"
    for plan in ("full", "blind", "random@2-64", "random@2-16"):
        assert rows[plan].vs_random is None
    assert rows["full"].vs_full is None and rows["blind"].vs_full.verdict == "worse"


def test_random_at_another_cost_is_no_comparison(results):
    shutil.rmtree(results / "random@2-64")
    shutil.rmtree(results / "random@2-64_seed=1")
    shutil.rmtree(results / "random@2-64_seed=2")
    row = by_plan(results)["fastv@2-64"]  # 320 tokens against 296 of random@2:16
    assert row.vs_random is None and not row.uncompared


def test_p_is_corrected_for_all_comparisons_of_the_board(made):
    """Seven comparisons: five plans with full, two with random. The smallest p counts seven times."""
    made_ones = [found for row in collect([made])[0] for found in (row.vs_full, row.vs_random) if found]
    assert len(made_ones) == 7
    least = min(made_ones, key=lambda found: found.p)
    assert least.p_holm == pytest.approx(7 * least.p)
    assert all(found.p_holm >= found.p for found in made_ones)


def test_a_run_of_other_questions_is_shown_and_not_compared(results):
    make_run(results, "fastv@2:128", keys=KEYS[:12])
    make_run(results, "fastv@2:32", fingerprint="bb")
    rows = by_plan(results)
    assert rows["fastv@2-128"].vs_full is None
    assert rows["fastv@2-128"].uncompared["full"] == "other questions (36, not 12)"
    assert rows["fastv@2-32"].uncompared["full"] == "another checkpoint"
    assert rows["fastv@2-64"].vs_full


def test_the_reference_is_that_of_the_same_folder_where_there_are_two(results, tmp_path):
    make_run(tmp_path / "other", "full", KEYS[:2])
    make_run(tmp_path / "other", "fastv@2:64", KEYS[:6])
    rows, _ = collect([results, tmp_path / "other"])
    found = {row.results.name: row.vs_full.score for row in rows if row.plan == "fastv@2-64"}
    assert found == {"results": pytest.approx(-100), "other": pytest.approx(-100 + 200 / 6)}


def test_seeds_of_other_questions_stay_apart(results):
    shutil.rmtree(results / "random@2-64_seed=2")
    make_run(results, "random@2:64,seed=2", keys=KEYS[:12])
    rows = by_plan(results)
    assert rows["random@2-64"].seeds == 2 and rows["random@2-64_seed=2"].seeds == 1


def test_folders_without_predictions_are_shown_and_not_compared(results):
    (results / "full/predictions.jsonl").unlink()
    rows = by_plan(results)
    assert rows["full"].score == 600 and rows["fastv@2-64"].vs_full is None
    assert rows["fastv@2-64"].uncompared["full"] == "no predictions.jsonl"


def test_a_run_whose_every_question_failed_has_no_cost(results):
    make_run(results, "fastv@2:8", failed=KEYS)
    row = by_plan(results)["fastv@2-8"]
    assert row.visual_tokens is None and row.failed == len(KEYS) and row.score == 0


def test_unfinished_runs_are_named(results):
    (results / "full/metrics.json").unlink()
    rows, unfinished = collect([results])
    assert unfinished == [results / "full"] and "full" not in [row.plan for row in rows]


def test_several_seeds_average_every_figure_that_is_a_number():
    """A new figure of a row is averaged or excluded on purpose; score_sd is what the seeds give."""
    hints = get_type_hints(Row)
    numbers = {member.name for member in fields(Row) if hints[member.name] in (float, float | None)}
    assert {member.name for member in fields(Row) if member.metadata.get("averaged")} == numbers - {"score_sd"}


def test_rows_are_plain_for_json(made):
    held = json.loads(json.dumps([row.as_dict() for row in collect([made])[0]], allow_nan=False))
    assert held[1]["vs_full"]["verdict"] == "not distinguishable" and "answers" not in held[1]

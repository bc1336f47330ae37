"""Folders of results as cells: named, placed, judged, and the empty ones with their reasons."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import pytest

from llava.eval.leaderboard.board import build
from llava.eval.leaderboard.cells import FILE, Cell, read_cells, write_cells
from llava.eval.leaderboard.files import as_markdown, write
from llava.eval.leaderboard.tables import missing_lines
from llava.eval.tasks.gqa import Gqa
from tests.eval.leaderboard.boards import KEYS, METHODS, make_board


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two models on MME, one of them on GQA too."""
    root = tmp_path_factory.mktemp("results")
    make_board(root, "shapes", samples=KEYS[:3])
    make_board(root, "shapes", "gqa", Gqa)
    make_board(root, "things")
    return root


@pytest.fixture(scope="module")
def board(made):
    return build([made])


def cell(board, name, mean, model="llava-shapes", task="mme"):
    (found,) = [e for e in board.entries if (e.model, e.task, e.name, e.mean) == (model, task, name, mean)]
    return found


def test_every_cell_has_its_run_or_its_reason(board):
    assert board.means == (64, 16) and len(board.boards()) == 3
    assert len(board.boards()["llava-shapes", "mme"]) == 2 + 2 * len(METHODS)
    best = cell(board, "divprune", 64)
    assert (best.kind, best.entering, best.row.visual_tokens, best.row.plan) == ("before", 64, 64, "divprune-64")
    late = cell(board, "fastv", 64)
    assert (late.kind, late.entering, late.row.visual_tokens) == ("inside", 576, 64)
    empty = cell(board, "fastv", 16)
    assert empty.row is None and empty.reason == "its nearest mean is 41.1 tokens, with fastv@1:0"
    assert cell(board, "full", None).row.method == "full" and not cell(board, "full", None).competes


def test_cells_are_compared_with_full_and_random_and_split_into_groups(board):
    row = cell(board, "divprune", 16).row
    assert row.vs_random.other == "random-16" and row.vs_random.verdict == "better" and row.vs_full.p_holm is not None
    wrong = sum(not right for right in cell(board, "downsample", 16).row.answers.correct[0])
    assert row.split.control == "downsample-16" and row.split.hard.questions == wrong


def test_the_best_and_what_cannot_be_told_from_it_are_marked(board):
    marks = {name: cell(board, name, 64).contender for name in METHODS}
    assert marks["divprune"] and marks["scope"] and not marks["random"] and not marks["downsample"]
    assert cell(board, "full", None).contender is None and cell(board, "fastv", 16).contender is None


def test_the_front_has_no_run_that_another_dominates(board):
    entries = [entry for entry in board.boards()["llava-shapes", "mme"] if entry.competes]
    for entry in entries:
        dominated = any(
            (other.mean, -other.row.score) < (entry.mean, -entry.row.score) and other.row.score >= entry.row.score
            for other in entries
        )
        assert entry.front != dominated, entry.name


def test_rankings_are_compared_between_models_between_tasks_and_between_means(board):
    about = {(each.between, each.within, each.mean, each.methods) for each in board.agreements}
    assert about == {
        ("models", "mme", 64, 7), ("models", "mme", 16, 6),
        ("tasks", "llava-shapes", 64, 7), ("tasks", "llava-shapes", 16, 6),
        *(("means", board, None, 6) for board in ("llava-shapes on mme", "llava-shapes on gqa", "llava-things on mme")),
    }  # fmt: skip


def test_what_was_begun_or_not_measured_says_so(made, tmp_path):
    root = shutil.copytree(made / "shapes", tmp_path / "shapes")
    shutil.rmtree(root / "mme/hired-64")
    (root / "mme/scope-16/metrics.json").unlink()
    board = build([root])
    assert cell(board, "hired", 64).reason == "not measured yet"
    assert cell(board, "scope", 16).reason == "it was begun and is not finished"


def test_a_task_without_any_run_comes_last_and_says_why_once(made, tmp_path):
    shutil.copytree(made / "shapes/mme", tmp_path / "shapes/mme")
    (tmp_path / "shapes/boxes").mkdir()
    reason = "boxes were not learnt"
    cells = [Cell(name, "before", mean, reason=reason) for name in ("divprune", "scope") for mean in (64, 16)]
    write_cells(tmp_path / "shapes/boxes", "llava-shapes", "boxes", [64, 16], cells)
    board = build([tmp_path])
    assert list(board.boards()) == [("llava-shapes", "mme"), ("llava-shapes", "boxes")]
    assert missing_lines(board.boards()["llava-shapes", "boxes"]) == ["boxes were not learnt: no cell is measured."]
    page = as_markdown(board)
    assert page.index("on mme") < page.index("on boxes") and page.count(reason) == 1


def test_a_mean_at_which_a_task_is_not_asked_is_said_once(made, tmp_path):
    """The page named every one of fifty methods."""
    root = shutil.copytree(made / "shapes/mme", tmp_path / "mme")
    head, cells = read_cells(root / FILE)
    reason = "few tokens say nothing here"
    asked = [cell if cell.mean != 16 else replace(cell, plan=None, reason=reason) for cell in cells]
    write_cells(root, head["model"], head["task"], head["means"], asked)
    for run in root.glob("*-16"):
        shutil.rmtree(run)
    (board,) = build([root]).boards().values()
    (line,) = [line for line in missing_lines(board) if line.startswith(reason)]
    assert line == f"{reason}: every method at 16."
    everywhere = [replace(entry, row=None, reason=reason) for entry in board if entry.mean is not None]
    full = next(entry for entry in board if entry.name == "full")
    three = [*everywhere, *(replace(entry, mean=9) for entry in everywhere if entry.mean == 16)]
    assert missing_lines([full, *three]) == [f"{reason}: every method at 64, 16 and 9."]


def test_runs_without_a_grid_are_placed_by_their_mean(tmp_path):
    root = make_board(tmp_path, grid=False)
    board = build([root])
    assert board.means == (64, 16)
    kinds = {entry.name: entry.kind for entry in board.entries}
    assert kinds == {
        "full": "control", "blind": "control", "random": "control", "downsample": "control",
        "divprune": "before", "scope": "before", "fastervlm": "before", "hired": "before", "fastv@1": "inside",
    }  # fmt: skip
    assert cell(board, "hired", 16).row.plan == "hired-16"


def test_seeds_of_random_are_one_cell(made, tmp_path):
    root = shutil.copytree(made / "shapes/mme", tmp_path / "mme")
    grid = json.loads((root / "grid.json").read_text())
    for seed in (1, 2):
        run = shutil.copytree(root / "random-16", root / f"random-16_seed={seed}")
        metrics = json.loads((run / "metrics.json").read_text())
        metrics.update(plan=run.name, method=f"random,seed={seed}")
        (run / "metrics.json").write_text(json.dumps(metrics))
        grid["cells"].append({"name": "random", "kind": "control", "mean": 16, "plan": run.name, "reason": None})
    (root / "grid.json").write_text(json.dumps(grid))
    assert cell(build([root]), "random", 16).row.seeds == 3


def test_two_runs_in_one_cell_are_refused(made, tmp_path):
    shutil.copytree(made / "shapes/mme", tmp_path / "first")
    shutil.copytree(made / "shapes/mme", tmp_path / "second")
    with pytest.raises(ValueError, match="are both full of llava-shapes on mme at None; give the folders of one"):
        build([tmp_path])


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        build([tmp_path])


def test_the_files_hold_every_cell(board, made, tmp_path):
    files = write(board, tmp_path / "page")
    assert [file.name for file in files] == [f"leaderboard.{kind}" for kind in ("html", "json", "csv", "md")]
    content = json.loads(files[1].read_text())
    assert len(content["cells"]) == len(board.entries) and len(content["agreement"]) == len(board.agreements)
    record = next(one for one in content["cells"] if one["name"] == "divprune" and one["mean"] == 16)
    assert (tmp_path / "page" / record["folders"][0] / "config.yaml").resolve().is_file()
    assert record["split"]["hard"]["questions"] and record["entering"] == 16 and record["contender"] is True
    with files[2].open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == len(board.entries)
    (empty,) = [row for row in rows if row["reason"] and row["model"] == "llava-shapes" and row["task"] == "gqa"]
    assert empty["name"] == "fastv" and empty["score"] == ""


def test_the_markdown_says_what_is_better_what_may_be_best_and_what_is_missing(board):
    text = as_markdown(board)
    line = next(line for line in text.splitlines() if line.startswith("| divprune |"))
    accuracy = 100 * cell(board, "divprune", 16).row.accuracy
    assert f"**{accuracy:.1f}** ●" in line
    assert "its nearest mean is 41.1 tokens, with fastv@1:0: fastv at 16." in text
    assert "## Do the rankings agree?" in text and "may be the best: " in text
    assert "### llava-shapes on mme at 16" in text and "hard % [95 %]" in text

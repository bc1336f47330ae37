"""Reports from folders alone: what is in the table, in which order, and what is wrong with a folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from llava.eval.report import cells, collect, draw_curve, main, show, write

RUNS = {"full": 576.0, "fastv@2-64": 149.3, "random@2-64": 149.3, "pool-64": 64.0, "blind": 0.0}


def make(folder: Path, plan: str, tokens: float, score: float, model: str = "llava-shapes-v1", failed: int = 0) -> Path:
    """A finished run's folder as ``llava.eval.run`` leaves it."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"format": 1, "model": {"name": model}}))
    metrics = {
        "task": "mme",
        "plan": plan,
        "method": plan.partition("-")[0],
        "score": score,
        "max_score": 1600,
        "score_interval": [score - 40, score + 45],
        "accuracy": score / 1600,
        "accuracy_interval": [score / 1600 - 0.03, score / 1600 + 0.03],
        "questions": 400,
        "failed": failed,
        "note": "scored over the 8 of 14 subtasks present",
    }
    cost = {
        "visual_tokens": tokens,
        "total_flops": 2e9,
        "kv_bytes": 3e6,
        "ms_per_question": 40.0,
        "tower_ms_per_picture": 9.0,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "cost.json").write_text(json.dumps(cost))
    return folder


@pytest.fixture
def results(tmp_path) -> Path:
    for number, (plan, tokens) in enumerate(RUNS.items()):
        make(tmp_path / plan, plan, tokens, 1500 - 150 * number)
    return tmp_path


def test_rows_are_sorted_by_cost_then_score_and_always_show_both(results):
    rows, unfinished = collect([results])
    assert [row.plan for row in rows] == list(RUNS) and not unfinished
    head, lines = cells(rows)
    assert head == ["plan", "score / 1600", "accuracy % [95 %]", "visual tokens", "GFLOPs", "KV MB", "ms"]
    assert lines[1] == ["fastv@2-64", "1350.0", "84.4 [81.4, 87.4]", "149.3", "2.00", "3.00", "40.0"]


def test_terminal_table_says_what_must_be_known(results):
    console = Console(record=True, width=100)
    show(*collect([results]), console)
    text = console.export_text()
    assert "llava-shapes-v1 on mme" in text and "84.4 [81.4, 87.4]" in text and "…" not in text
    assert "8 of 14 subtasks" in text and "95 % bootstrap" in " ".join(text.split())


def test_files_of_a_report(results, tmp_path):
    rows, unfinished = collect([results])
    files = write(rows, tmp_path / "out", unfinished)
    assert [file.name for file in files] == ["curve.png", "report.md", "report.csv", "report.json"]
    with Image.open(files[0]) as image:
        assert image.width >= 1000
    assert (tmp_path / "out/report.md").read_text().startswith("| plan | score / 1600 |")
    with open(tmp_path / "out/report.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["accuracy_low"]) < float(first["accuracy"]) < float(first["accuracy_high"])
    assert json.loads((tmp_path / "out/report.json").read_text())[0]["plan"] == "full"


def test_curve_has_a_line_a_method_and_reference_lines(results):
    (axes,) = draw_curve(collect([results])[0]).axes
    assert [container.get_label() for container in axes.containers] == ["fastv@2", "random@2", "pool"]
    assert sorted(text.get_text().split()[0] for text in axes.texts) == ["blind", "full"]


def test_two_models_get_a_column_and_a_curve_each(results, tmp_path):
    make(tmp_path / "other" / "full", "full", 576.0, 800, model="other")
    rows, _ = collect([results])
    assert "model" in cells(rows)[0]
    names = [file.name for file in write(rows, tmp_path / "out")]
    assert names[:2] == ["curve-mme-llava-shapes-v1.png", "curve-mme-other.png"]


def test_failures_are_counted_in_the_table(results, tmp_path):
    make(tmp_path / "grid-64", "grid-64", 64, 900, failed=4)
    console = Console(record=True, width=100)
    show(*collect([results]), console)
    text = " ".join(console.export_text().split())
    assert "ms failed" in text and "grid-64: 4 of 400 questions failed" in text


def test_unfinished_run_is_named_not_shown(results, tmp_path):
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "config.yaml").write_text("format: 1\n")
    (folder / "predictions.jsonl").write_text("")
    rows, unfinished = collect([results])
    assert unfinished == [folder] and len(rows) == len(RUNS)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "{", "metrics.json is not JSON"),
        ("metrics.json", "{}", "has no 'task'"),
        ("config.yaml", "format: 0\n", "format 0, this version reads 1"),
    ],
)
def test_a_spoiled_folder_is_named(results, tmp_path, file, content, message):
    (tmp_path / "full" / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        collect([results])


def test_command_line(results, tmp_path, capsys, caplog):
    assert main([str(results)]) == 0
    assert (results / "curve.png").is_file() and "fastv@2-64" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no finished run" in caplog.text

"""Reports from folders alone: the terminal's table, the files, the curve, and the command line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from llava.cli.console import terminal
from llava.eval.report.command import collect, draw_curve, main, show, write
from tests.eval.folders import make_run, questions

KEYS = questions(pictures=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root, "full", keys=KEYS)
    for keep, wrong in ((128, 2), (64, 4), (16, 12)):
        make_run(root, f"fastv@2:{keep}", KEYS[:wrong], tokens=keep, keys=KEYS)
        make_run(root, f"random@2:{keep}", KEYS[: wrong + 4], tokens=keep, keys=KEYS)
    make_run(root, "himap@2:128+himap@3:64,rows=image", KEYS[:3], tokens=96, keys=KEYS)
    make_run(root, "blind", KEYS[::2], keys=KEYS)
    return root


def test_the_terminal_table_fits_110_columns_and_cuts_nothing(made):
    console = Console(record=True, width=110)
    show(*collect([made]), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 110 and not any("…" in line for line in lines)
    text = "\n".join(lines)
    assert "llava-shapes-v1 on mme" in text
    (full,) = [line.split() for line in lines if line.startswith(" full ")]
    assert full == ["full", "600.0", "[421,", "600]", "100.0", "576.0", "25.04", "23.04", "40.0"]
    (blind,) = [line.split() for line in lines if line.startswith(" blind ")]
    assert blind[-2:] == ["-450", "worse"]
    assert "not distinguishable" in " ".join(text.split()) and "indistinct" in text


def test_files_of_a_report(made, tmp_path):
    files = write(*_rows(made, tmp_path / "out"))
    names = ["curve.png", "report.md", "report.csv", "report.json", "report.html"]
    assert [file.name for file in files] == names and all(file.stat().st_size for file in files)
    with Image.open(files[0]) as image:
        assert image.width >= 1000
    lines = files[1].read_text().splitlines()
    assert lines[0].startswith("| plan | score / 600 [95 %] | accuracy % [95 %] | visual tokens |")
    assert lines[2].startswith("| full | 600.0 [421, 600] |") and "not distinguishable (p = " in files[1].read_text()
    with open(files[2], newline="") as file:
        rows = {row["plan"]: row for row in csv.DictReader(file)}
    fastv = rows["fastv@2-16"]
    assert float(fastv["score_low"]) < float(fastv["score"]) < float(fastv["score_high"])
    assert fastv["vs_full_verdict"] == "worse" and float(fastv["vs_full_p_holm"]) >= float(fastv["vs_full_p"])
    assert rows["full"]["vs_full_score"] == "" and rows["full"]["subtasks_count"] == "200.0"
    held = json.loads(files[3].read_text())
    assert held[0]["plan"] == "full" and held[0]["vs_full"] is None


def _rows(made: Path, output: Path) -> tuple:
    rows, unfinished = collect([made])
    return rows, output, unfinished


def test_the_page_can_be_left_out(made, tmp_path):
    rows, _ = collect([made])
    assert "report.html" not in [file.name for file in write(rows, tmp_path, html=False)]
    assert not (tmp_path / "report.html").exists()


def test_curve_has_a_line_a_method_and_reference_lines(made):
    (axes,) = draw_curve(collect([made])[0]).axes
    labels = [container.get_label() for container in axes.containers]
    assert sorted(labels) == ["fastv@2", "himap@2+himap@3,rows=image", "random@2"]
    assert sorted(text.get_text().split()[0] for text in axes.texts) == ["blind", "full"]


def test_two_models_get_a_curve_each(made, tmp_path):
    make_run(tmp_path / "other", "full", keys=KEYS, name="other")
    rows, _ = collect([made, tmp_path / "other"])
    names = [file.name for file in write(rows, tmp_path / "out", html=False)]
    assert names[:2] == ["curve-mme-llava-shapes-v1.png", "curve-mme-other.png"]


def test_command_line(made, tmp_path, capsys, caplog):
    results = Path(shutil.copytree(made, tmp_path / "results"))
    assert main([str(results)]) == 0
    assert (results / "report.html").is_file() and "fastv@2-64" in capsys.readouterr().out
    assert main([str(results), "--no-html", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/report.md").is_file() and not (tmp_path / "out/report.html").exists()
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no finished run" in caplog.text
    (results / "full/metrics.json").write_text("{\n{")
    assert main([str(results)]) == 2
    assert "metrics.json:2 is not JSON" in caplog.text


def test_output_that_cannot_be_written_is_named(made, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert main([str(made), "--output", str(tmp_path / "file" / "out")]) == 2
    assert "give a folder that is writable" in caplog.text


def test_lines_are_long_enough_where_no_terminal_is():
    assert terminal().width >= 110 or terminal().is_terminal

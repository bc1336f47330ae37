"""Reports from folders alone: the files, the curve, and the command line."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from llava.cli.console import terminal
from llava.eval.report.command import collect, main, write
from llava.eval.report.curve import draw_curve
from llava.eval.tasks.statistics import containing
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
    assert (
        rows["full"]["template"] == "vicuna_v1"
        and rows["full"]["vs_full_score"] == ""
        and rows["full"]["subtasks_count"] == "200.0"
    )
    held = json.loads(files[3].read_text())
    assert held[0]["plan"] == "full" and held[0]["vs_full"] is None


def _rows(made: Path, output: Path) -> tuple:
    rows, unfinished = collect([made])
    return rows, output, unfinished


HOSTILE = "<script>alert(1)</script>"


def test_text_from_a_folder_is_neither_markup_nor_formula(made, tmp_path):
    """Markdown and CSV are opened by programs that run what they find: tags, links, further columns, formulas."""
    rows, _ = collect([made])
    plans = [f"{HOSTILE}|", "=HYPERLINK(1)", "@SUM(1)", "-2+3", "+1", "\t=1", "[a](javascript:b)\nc"]
    hostile = [replace(rows[0], plan=plan, note=HOSTILE, model=HOSTILE, template=HOSTILE) for plan in plans]
    write(hostile, tmp_path)
    text = (tmp_path / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert "<script" not in text and len(lines) == 2 + len(plans)
    columns = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
    assert len(columns) == 1 and "[a](" not in text
    with open(tmp_path / "report.csv", newline="") as file:
        content = file.read()
        file.seek(0)
        read = [row["plan"] for row in csv.DictReader(file)]
    assert "<script" not in content
    assert read[1:6] == ["'=HYPERLINK(1)", "'@SUM(1)", "'-2+3", "'+1", "'\t=1"] and read[6].startswith("[a](")


def test_negative_numbers_of_the_csv_stay_numbers(made, tmp_path):
    write(collect([made])[0], tmp_path, page=False)
    with open(tmp_path / "report.csv", newline="") as file:
        rows = {row["plan"]: row for row in csv.DictReader(file)}
    assert float(rows["blind"]["vs_full_score"]) == -450


def test_a_curve_is_written_into_the_folder_whatever_the_model_is_called(made, tmp_path):
    make_run(tmp_path / "other", "full", keys=KEYS, name="../../other model")
    rows, _ = collect([made, tmp_path / "other"])
    files = write(rows, tmp_path / "out", page=False)
    assert files[0].name == "curve-mme-.._.._other_model.png" and files[0].parent == tmp_path / "out"


@pytest.mark.parametrize("pictures", [10, 30, 90])
def test_a_perfect_score_has_a_curve(tmp_path, pictures):
    """Its interval was resampled to 100.00000000000003 on both sides, which matplotlib refused after the run."""
    rows, _ = collect([make_run(tmp_path, "fastv@2:64", keys=questions(pictures))])
    ends = 100 / 3 * 3 + 3e-14
    stored = replace(rows[0], score=100.0, max_score=100.0, score_interval=containing(100.0, [ends, ends]))
    assert len(draw_curve([stored]).axes) == 1
    assert len(draw_curve(rows).axes) == 1


def test_the_page_can_be_left_out(made, tmp_path):
    rows, _ = collect([made])
    assert "report.html" not in [file.name for file in write(rows, tmp_path, page=False)]
    assert not (tmp_path / "report.html").exists()


def test_curve_has_a_line_a_method_and_reference_lines(made):
    (axes,) = draw_curve(collect([made])[0]).axes
    labels = [container.get_label() for container in axes.containers]
    assert sorted(labels) == ["fastv@2", "himap@2+himap@3,rows=image", "random@2"]
    assert sorted(text.get_text().split()[0] for text in axes.texts) == ["blind", "full"]


def test_a_long_legend_takes_nothing_from_the_curve_and_names_weights_by_their_folder(made):
    row = next(row for row in collect([made])[0] if row.method == "fastv@2")
    methods = [f"merger,weights=a/long/way/to/the/folder/of/weights-{number}" for number in range(9)]
    figure = draw_curve([replace(row, method=method) for method in methods])
    figure.draw_without_rendering()
    plain = draw_curve([row])
    plain.draw_without_rendering()
    heights = [drawn.axes[0].get_window_extent().height for drawn in (figure, plain)]
    assert heights[0] > 0.95 * heights[1]
    assert figure.axes[0].containers[8].get_label() == "merger,weights=weights-8"
    alike = [replace(row, method=f"merger,weights={folder}/weights") for folder in ("one", "two")]
    labels = [container.get_label() for container in draw_curve(alike).axes[0].containers]
    assert labels == ["merger,weights=one/weights", "merger,weights=two/weights"]


def test_two_models_get_a_curve_each(made, tmp_path):
    make_run(tmp_path / "other", "full", keys=KEYS, name="other")
    rows, _ = collect([made, tmp_path / "other"])
    names = [file.name for file in write(rows, tmp_path / "out", page=False)]
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

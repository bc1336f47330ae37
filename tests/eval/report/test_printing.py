"""The terminal's table: it fits, cuts nothing, and says what it left out."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from llava.eval.report.printing import show
from llava.eval.report.runs import collect
from tests.eval.folders import make_run, questions

KEYS = questions(pictures=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root, "full", keys=KEYS)
    for keep, wrong in ((64, 4), (16, 12)):
        make_run(root, f"fastv@2:{keep}", KEYS[:wrong], tokens=keep, keys=KEYS)
        for seed in (0, 1):
            option = f",seed={seed}" if seed else ""
            make_run(root, f"random@2:{keep}{option}", KEYS[: wrong + 4], tokens=keep, keys=KEYS)
    make_run(root, "himap@2:128+himap@3:64,rows=image", KEYS[:3], tokens=96, keys=KEYS)
    make_run(root, "blind", KEYS[::2], keys=KEYS)
    return root


def printed(made: Path, width: int, terminal: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, no_color=True, color_system=None)
    show(*collect([made]), console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [110, 140])
def test_a_table_fits_its_terminal_and_cuts_nothing(made, width):
    lines = printed(made, width, terminal=True)
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    text = "\n".join(lines)
    assert "llava-shapes-v1 on mme, template vicuna_v1" in text
    (full,) = [line.split() for line in lines if line.startswith(" full ")]
    assert full[:5] == ["full", "600.0", "[421,", "600]", "100.0"]
    (blind,) = [line.split() for line in lines if line.startswith(" blind ")]
    assert blind[-2:] == ["-450", "worse"]
    assert "not distinguishable" in " ".join(text.split()) and "indistinct" in text


@pytest.mark.parametrize(("width", "left_out"), [(110, ["KV MB"]), (95, ["GFLOPs", "ms", "KV MB"])])
def test_a_narrow_terminal_leaves_out_costs_and_says_so(made, width, left_out):
    lines = printed(made, width, terminal=True)
    (sentence,) = [line for line in lines if line.startswith(f"Lines of {width} characters have no room for ")]
    assert sentence.removeprefix(f"Lines of {width} characters have no room for ").split(";")[0] == ", ".join(left_out)
    assert max(map(len, lines)) <= width and any(line.startswith(" fastv@2-64") for line in lines)


@pytest.mark.parametrize("width", [60, 110])
def test_a_log_has_every_column_and_every_plan(made, width):
    """A cell such as "350.0 ± 71 [262, 451]" makes the table wider than 110 columns."""
    lines = printed(made, width, terminal=False)
    rows = [line.split() for line in lines if line.startswith((" full ", " fastv@2-64 ", " random@2-64 ", " blind "))]
    assert [row[0] for row in rows] == ["full", "fastv@2-64", "random@2-64", "blind"]
    assert {"KV", "GFLOPs"} <= set(" ".join(lines).split()) and "no room" not in " ".join(lines)

"""The benchmark of the greedy loop: the plain loops pick the same, and the table says what was measured."""

from __future__ import annotations

import json

import pytest

from llava.eval.bench.greedy import LOOPS, main, time_loop


@pytest.mark.parametrize("objective", LOOPS)
def test_both_loops_pick_the_same(objective):
    timing = time_loop(objective, tokens=40, keep=12, batch=2, repeats=1)
    assert timing.agreement == 1 and timing.ours_ms > 0 and timing.plain_ms > 0


def test_the_table_has_every_combination_that_keeps_no_more_than_there_are(tmp_path, capsys):
    output = tmp_path / "greedy.json"
    words = ["--tokens", "12", "20", "--keep", "4", "16", "--batch", "1", "--repeats", "1", "--output", str(output)]
    assert main(words) == 0
    rows = json.loads(output.read_text())
    assert [(row["objective"], row["tokens"], row["keep"]) for row in rows] == [
        (objective, *sizes) for objective in LOOPS for sizes in ((12, 4), (20, 4), (20, 16))
    ]
    assert "facility location" in capsys.readouterr().out

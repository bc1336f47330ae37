"""The benchmark of choosing and merging: every combination once, what it says adds up."""

from __future__ import annotations

import json

import pytest

from llava.eval.bench.command import main
from llava.reduction.centres import STRATEGIES


def test_every_combination_is_a_row_of_the_table_and_of_the_json(tmp_path, capsys):
    output = tmp_path / "selectors.json"
    sizes = ["--tokens", "20,40", "--keep", "4,30", "--heads", "1,4", "--width", "128"]
    assert main(["--selectors", *sizes, "--pairs", "2", "--device", "cpu", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert {(row["strategy"], row["tokens"], row["keep"], row["heads"]) for row in found["rows"]} == {
        (strategy, tokens, keep, heads)
        for strategy in STRATEGIES
        for tokens, keep in ((20, 4), (40, 4), (40, 30))
        for heads in (1, 4)
    }
    for row in found["rows"]:
        assert row["choose_ms"] > 0 and row["merge_ms"] > 0 and row["extra_mb"] >= 0
        whole = found["dense_prefill_ms"][str(row["tokens"])]
        assert row["share"] == pytest.approx((row["choose_ms"] + row["merge_ms"]) / whole)
    printed = capsys.readouterr().out
    assert all(strategy in printed for strategy in STRATEGIES)


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path, caplog):
    output = ["--output", str(tmp_path / "selectors.json")]
    assert main(["--selectors", "--tokens", "8", "--keep", "2", "--heads", "3", "--width", "128", *output]) == 2
    assert "heads=3" in caplog.text

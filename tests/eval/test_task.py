"""What every task shares: the registry, even slices, and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from llava.eval.statistics import bootstrap
from llava.eval.task import Example, get_task, list_tasks, read_jsonl, spread


def examples(pictures: int, each: int) -> list[Example]:
    return [Example(f"{p}#{q}", str(p), str(p), None, "", "Yes", "") for p in range(pictures) for q in range(each)]


def test_every_file_of_tasks_is_a_task():
    assert "mme" in list_tasks()
    for name in list_tasks():
        assert get_task(name).name == name


def test_unknown_task_suggests():
    with pytest.raises(ValueError, match="task='MMEE'.*did you mean 'mme'"):
        get_task("MMEE")


@pytest.mark.parametrize(("limit", "kept"), [(None, 12), (100, 12), (12, 12), (11, 9), (3, 3), (1, 3)])
def test_spread_keeps_whole_pictures(limit, kept):
    chosen = spread(examples(4, 3), limit)
    assert len(chosen) == kept
    assert all(sum(other.picture == example.picture for other in chosen) == 3 for example in chosen)


def test_spread_reaches_over_the_whole_sequence():
    assert [example.picture for example in spread(examples(10, 2), 6)][::2] == ["0", "3", "6"]


def test_bootstrap_interval_has_the_width_of_theory():
    """100 pictures of one question, half right: the standard error is 0.05, so the interval is 0.5 +- 0.098."""
    low, high = bootstrap([1, 0] * 50, [1] * 100)
    assert low == pytest.approx(0.402, abs=0.02) and high == pytest.approx(0.598, abs=0.02)


def test_bootstrap_adds_strata_and_draws_within_them():
    """A stratum without spread adds its mean and nothing to the width."""
    low, high = bootstrap([1, 1, 1, 0, 1, 0], [1] * 6, ["a", "a", "a", "b", "b", "b"])
    assert low >= 1 and high <= 2
    assert bootstrap([3.0, 4.0], [1, 1], ["a", "b"]) == [7, 7]


def test_bootstrap_is_deterministic():
    value = np.random.default_rng(1).integers(0, 3, 40)
    assert bootstrap(value, [2] * 40) == bootstrap(value, [2] * 40)


def test_read_jsonl_names_file_and_line(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"a": 1}\n\n[1]\n')
    with pytest.raises(ValueError, match="lines.jsonl:3 lacks a"):
        read_jsonl(file, ["a"])

"""Two runs compared: differences by hand, several seeds, and what keeps runs apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from llava.eval.report.compare import Answers, difference, obstacle
from llava.eval.results.folder import read_predictions
from llava.eval.tasks.statistics import mcnemar
from tests.eval.folders import make_run, questions

KEYS = questions(pictures=4, subtasks=("existence", "count"))


def read(folder: Path) -> Answers:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    file = folder / "predictions.jsonl"
    return Answers.from_lines(read_predictions(file), file, metrics["task"], metrics["score"], config)


def test_difference_by_hand(tmp_path):
    """8 pictures in two subtasks of 4. The second run misses one question of existence and both of one picture of count.

    Existence: acc 7/8, acc+ 3/4, so 162.5; count: acc 6/8, acc+ 3/4, so 150: 87.5 below 400. Accuracy 13/16, so -3/16.
    Three questions are right in one run alone: p = 2 / 2^3.
    """
    full = read(make_run(tmp_path, "full", keys=KEYS))
    wrong = ["existence/0000.png#2", "count/0001.png#1", "count/0001.png#2"]
    other = read(make_run(tmp_path, "fastv@2:64", wrong, keys=KEYS))
    found = difference(other, full, "full")
    assert found.score == pytest.approx(-87.5) and found.accuracy == pytest.approx(-3 / 16)
    assert found.p == pytest.approx(0.25)
    assert found.score_interval[0] < -87.5 < found.score_interval[1] and found.other == "full"
    back = difference(full, other, "fastv@2-64")
    assert back.score_interval == pytest.approx([-bound for bound in reversed(found.score_interval)])


def test_the_order_of_the_lines_does_not_matter(tmp_path):
    first = read(make_run(tmp_path / "a", "fastv@2:64", KEYS[:5], keys=KEYS))
    turned = read(make_run(tmp_path / "b", "fastv@2:64", KEYS[:5], keys=[*KEYS[6:], *KEYS[:6]]))
    assert first.asked == turned.asked
    assert difference(first, turned, "").score == 0


def test_seeds_are_compared_by_their_mean_and_the_largest_p(tmp_path):
    full = read(make_run(tmp_path, "full", keys=KEYS))
    seeds = [read(make_run(tmp_path, f"random@2:64,seed={seed}", KEYS[: 4 * seed], keys=KEYS)) for seed in (1, 2)]
    found = difference(full, Answers.merged(seeds), "random")
    alone = [difference(full, seed, "") for seed in seeds]
    assert found.score == pytest.approx(np.mean([one.score for one in alone]))
    assert found.p == max(mcnemar(full.correct[0], seed.correct[0]) for seed in seeds)


def test_a_score_that_is_no_sum_over_pictures_is_judged_by_accuracy(tmp_path):
    full = read(make_run(tmp_path, "full", keys=KEYS))
    other = replace(read(make_run(tmp_path, "fastv@2:64", KEYS[:14], keys=KEYS)), score=[])
    found = difference(other, full, "full")
    assert found.score is None and found.verdict == "worse" and found.accuracy == pytest.approx(-14 / 16)
    file = tmp_path / "full/predictions.jsonl"
    assert not Answers.from_lines(read_predictions(file), file, "mme", score=1.0, config={}).score  # they add up to 400


def test_what_keeps_runs_apart(tmp_path):
    first = read(make_run(tmp_path, "full", keys=KEYS))
    fewer = read(make_run(tmp_path, "fastv@2:64", keys=KEYS[:8]))
    assert obstacle(fewer, first) == "other questions (16, not 8)"
    assert obstacle(first, read(make_run(tmp_path, "fastv@2:32", keys=KEYS))) is None
    assert obstacle(first, read(make_run(tmp_path, "fastv@2:16", keys=KEYS, fingerprint="bb"))) == "another checkpoint"
    renamed = [key.replace("0001", "0009") for key in KEYS]
    assert obstacle(first, read(make_run(tmp_path, "fastv@2:8", keys=renamed))) == "other questions"


def test_a_line_that_lacks_something_is_named(tmp_path):
    file = make_run(tmp_path, "full", keys=KEYS) / "predictions.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].replace('"label"', '"lable"'), *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"predictions.jsonl:2 lacks label; remove the folder"):
        read(file.parent)


def test_a_picture_with_half_its_answers_is_named(tmp_path):
    file = make_run(tmp_path, "full", keys=KEYS) / "predictions.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"predictions.jsonl: count/0003.png has 1 of its two answers"):
        read(file.parent)
    file.write_text("")
    with pytest.raises(ValueError, match="holds no answer although"):
        read(file.parent)

"""Agreement of choices that are known, and of real plans."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llava.analysis.agreement import kappa, places


def of(*kept: int, patches: int = 16) -> np.ndarray:
    chosen = np.zeros(patches, dtype=bool)
    chosen[list(kept)] = True
    return chosen


def test_kappa_by_hand():
    """Of 16 patches four each, two in common: 12 agreed about, 10 by chance, so 2 of 6."""
    assert kappa(of(0, 1, 2, 3), of(0, 1, 4, 5)) == pytest.approx(2 / 6)
    assert kappa(of(3, 7), of(3, 7)) == 1
    assert kappa(of(0, 1), of(2, 3)) < 0
    assert np.isnan(kappa(of(), of())) and np.isnan(kappa(of(*range(16)), of(*range(16))))


def test_chance_agrees_about_nothing_at_any_budgets():
    generator = np.random.default_rng(0)
    draws = [np.array([of(*generator.permutation(576)[:keep], patches=576) for _ in range(400)]) for keep in (64, 200)]
    assert abs(kappa(draws[0], draws[1]).mean()) < 0.01


def test_places_by_hand():
    assert places(of(*range(16))).tolist() == [0.5, 0.5]
    assert places(of(0)).tolist() == [0.125, 0.125] and places(of(12, 15)).tolist() == [0.875, 0.5]
    assert np.isnan(places(of())).all()


def test_command_line(analyse, tmp_path):
    plans = ("pool:36", "random@2:40", "random@2:40,seed=1", "random@prompt:80+random@3:40,seed=1")
    assert analyse("agreement", "--output-dir", "out", *(word for plan in plans for word in ("--reduction", plan))) == 0
    held = json.loads((tmp_path / "out" / "agreement.json").read_text())
    agreement = np.array(held["kappa"])
    assert held["tokens"] == [36, 40, 40, 40] and agreement.shape == (4, 4)
    assert (np.diag(agreement) == 1).all() and (abs(agreement[~np.eye(4, dtype=bool)]) < 0.2).all()
    # The patch that a cell of four by four is counted as lies beside its middle.
    assert held["row"][0][0] == held["column"][0][0] == pytest.approx(0.5, abs=0.03)
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"agreement.png", "places.png"}


@pytest.mark.parametrize(
    ("plans", "said"),
    [
        (["fastv@2:64"], "give two plans or more"),
        (["fastv@2:64", "fastv@2:64"], "each once"),
        (["downsample:64", "fastv@2:64"], "chooses among no patches"),
        (["fastv@2:64", "tome:64"], "chooses among no patches"),
    ],
)
def test_plans_that_cannot_be_compared(analyse, caplog, plans, said):
    assert analyse("agreement", *(word for plan in plans for word in ("--reduction", plan))) == 2
    assert said in caplog.text

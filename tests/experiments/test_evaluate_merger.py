"""The comparison of trained mergers: which plans it makes, and that it is the harness that runs them."""

from __future__ import annotations

import logging

import pytest

from llava.eval.ask.opening import tokens_of_picture
from llava.eval.ask.pricing import Pricing
from llava.experiments import evaluate_merger
from llava.experiments.evaluate_merger import main, plans
from llava.model.builder import read_config
from llava.reduction import plan_from, plan_name
from llava.reduction.aggregate import CrossAttention
from llava.reduction.learned.trained import save_trained
from llava.reduction.mergers import make_merger
from tests.conftest import PARITY15


@pytest.fixture
def pricing():
    config = read_config(PARITY15 / "checkpoint")
    return Pricing(config, tokens_of_picture(PARITY15 / "checkpoint", config))


@pytest.fixture
def folders(tmp_path):
    width = read_config(PARITY15 / "checkpoint").mm_hidden_size
    arguments = {"d_model": width, "num_heads": 4}
    save_trained(make_merger("simple", **arguments), tmp_path / "v1", arguments)
    save_trained(CrossAttention(width, 4), tmp_path / "centres", {"width": width, "heads": 4})
    return [str(tmp_path / "v1"), str(tmp_path / "centres")]


def test_every_budget_has_the_trained_their_rivals_and_fastv_at_the_same_cost(folders, pricing, caplog):
    caplog.set_level(logging.INFO)
    found = plans(folders, [288, 16], pricing)
    assert found[:2] == ["full", "blind"] and len(set(found)) == len(found)
    for keep in (288, 16):
        own = [plan for plan in found if pricing.visual(plan_from(plan)) == pytest.approx(keep, rel=0.05)]
        names = [plan_from(plan)[0].name for plan in own]
        wanted = ["merger", "condensation", "pool", "grid", "condensation", "custom_selection", *["random"] * 3]
        assert names == wanted + (["fastv", "custom_selection"] if keep == 288 else [])
    assert "fastv@2:192" in found  # 2 of 8 layers with 576 and 6 with 192 are 288 on the mean
    assert all(f"{name} cannot have 16 tokens on average" in caplog.text for name in ("fastv", "custom_selection"))
    assert plan_name(found[2]).startswith("merger-288_weights=v1-")


def test_it_hands_the_plans_to_the_harness(folders, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(evaluate_merger.evaluation, "run", lambda settings, plans: seen.append((settings, plans)))
    model = ["--model-path", str(PARITY15 / "checkpoint"), "--data", str(tmp_path)]
    words = ["--weights", folders[0], f"--weights={folders[1]}", "--budgets", "64", "--reduction", "dpp@2:8"]
    assert main([*model, *words, "--batch-size", "3"]) == 0
    ((settings, plans),) = seen
    assert not plans.controls and settings.batch_size == 3 and settings.data == tmp_path
    assert f"merger:64,weights={folders[0]}" in plans.reductions
    assert f"condensation@features:64,strategy=fps,weights={folders[1]}" in plans.reductions
    assert plans.reductions[-1] == "dpp@2:8"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budgets", "many"], "--budgets many must be whole numbers"),
        (["--budgets", "600"], "--budgets 600 must lie between 1 and the 576 tokens"),
        (["--weights", "nowhere"], "weights='nowhere' holds no merger.json"),
    ],
)
def test_bad_flags_are_named(folders, caplog, flags, message, tmp_path):
    model = ["--model-path", str(PARITY15 / "checkpoint"), "--data", str(tmp_path), "--weights", folders[0]]
    assert main([*model, *flags]) == 2
    assert message in caplog.text

"""Prices and matched budgets: what is compared costs what it is said to cost."""

from __future__ import annotations

import pytest
import torch

from llava.eval.ask.opening import tokens_of_picture
from llava.eval.ask.pricing import Pricing, matched, parse_match
from llava.model.builder import read_config
from llava.reduction import plan_from, plan_name, reduced
from llava.reduction.plan import tokens_left
from tests.conftest import PARITY15


@pytest.fixture(scope="module")
def pricing() -> Pricing:
    config = read_config(PARITY15 / "checkpoint")
    return Pricing(config, tokens_of_picture(PARITY15 / "checkpoint", config), text=40)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("", [576] * 8),
        ("full@2", [576] * 8),
        ("blind", [0] * 8),
        ("blind@3", [576] * 3 + [0] * 5),
        ("fastv@2:64", [576] * 2 + [64] * 6),
        ("fastv@2:0.25", [576] * 2 + [144] * 6),
        ("fastv@2:64,place=mask", [576] * 8),
        ("pool:64+fastv@3:0.5", [64] * 3 + [32] * 5),
        ("downsample:128", [121] * 8),
        ("fastv@1:100+random@7:10", [576] + [100] * 6 + [10]),
    ],
)
def test_what_a_plan_leaves_is_known_before_it_runs(plan, expected, llava15):
    """The forecast, and what the model says after it ran."""
    assert tokens_left(plan_from(plan), 576, 8) == expected
    case = llava15.cases()[0]
    with torch.no_grad(), reduced(llava15.model, plan):
        llava15.model(**llava15.inputs(case))
    if "mask" not in plan:  # hidden tokens are not counted, though they are computed
        assert llava15.model.last_cost()[0].visual_per_layer == expected


def test_dense_costs_one_and_fewer_tokens_less(pricing):
    assert pricing.flops([]) == 1
    prices = [pricing.flops(plan_from(f"fastv@2:{keep}")) for keep in (500, 200, 64, 0)]
    assert prices == sorted(prices, reverse=True) and 0.25 < prices[-1] < 0.4
    assert pricing.visual(plan_from("fastv@2:64")) == (2 * 576 + 6 * 64) / 8


@pytest.mark.parametrize("measure, wanted", [("tokens", 192.0), ("tokens", 300.0), ("flops", 0.4), ("flops", 0.7)])
@pytest.mark.parametrize("spec", ["fastv@2", "pool", "himap@1:200+himap@4:100,rows=image", "condensation@2"])
def test_matched_plans_cost_the_same(pricing, spec, measure, wanted):
    plan = matched(plan_from(spec, 1.0), pricing, measure, wanted)
    price = pricing.visual(plan) if measure == "tokens" else pricing.flops(plan)
    assert price == pytest.approx(wanted, rel=0.02)
    if "himap" in spec:
        assert plan[0].keep == pytest.approx(2 * plan[1].keep, abs=1)


def test_matching_says_what_cannot_be(pricing):
    with pytest.raises(ValueError, match="cannot cost that; the nearest is flops=.* with fastv@6:0"):
        matched(plan_from("fastv@6:64"), pricing, "flops", 0.3)
    assert plan_name(matched(plan_from("blind"), pricing, "flops", 0.3)) == "blind"


@pytest.mark.parametrize("text", ["flops", "flops=", "flops=0", "flops=1.5", "tokens=-1", "budget=3", "tokens=nan"])
def test_match_is_read_or_refused(text):
    assert parse_match("tokens=128") == ("tokens", 128)
    with pytest.raises(ValueError, match="--match"):
        parse_match(text)

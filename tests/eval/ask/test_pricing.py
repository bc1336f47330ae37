"""Prices and matched budgets: what is compared costs what it is said to cost."""

from __future__ import annotations

import pytest
import torch

from llava.eval.ask.opening import tokens_of_picture
from llava.eval.ask.pricing import Pricing, matched, parse_match
from llava.model.builder import read_config
from llava.model.language_model.himap_configuration_llama import LlamaConfig
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


@pytest.mark.parametrize(
    "measure, wanted", [("tokens", 192.0), ("tokens", 300.0), ("flops", 0.4), ("flops", 0.7), ("kv", 0.4), ("kv", 0.6)]
)
@pytest.mark.parametrize("spec", ["fastv@2", "pool", "himap@1:200+himap@4:100,rows=image", "condensation@2"])
def test_matched_plans_cost_the_same(pricing, spec, measure, wanted):
    plan = matched(plan_from(spec, 1.0), pricing, measure, wanted)
    price = {"tokens": pricing.visual, "flops": pricing.flops, "kv": pricing.kv}[measure](plan)
    assert price == pytest.approx(wanted, rel=0.02)
    if "himap" in spec:
        assert plan[0].keep == pytest.approx(2 * plan[1].keep, abs=1)


@pytest.mark.parametrize("spec", ["fastv@2:64", "pool:64+fastv@3:0.5", "fastv@2:64,place=mask", "blind@3"])
def test_the_share_of_the_cache_is_what_the_model_leaves(pricing, spec, llava15):
    case, left = llava15.cases()[0], {}
    for plan in ("", spec):
        with torch.no_grad(), reduced(llava15.model, plan):
            llava15.model(**llava15.inputs(case), use_cache=True)
        left[plan] = llava15.model.last_cost()[0]
    text = left[""].rows_per_layer[0] - pricing.tokens
    forecast = Pricing(pricing.config, pricing.tokens, text).kv(plan_from(spec))
    assert forecast == pytest.approx(left[spec].kv_bytes / left[""].kv_bytes)


@pytest.mark.parametrize("spec", ["pyramiddrop", "v2drop", "fitprune"])
def test_budgets_that_a_method_cannot_have_are_passed_over(spec):
    """A mean over the layers that no schedule has: below what the layers before the first stage see, above the last's."""
    deep = Pricing(LlamaConfig(num_hidden_layers=32), 576)
    plan = matched(plan_from(spec, 1.0), deep, "tokens", 160)
    assert deep.visual(plan) == pytest.approx(160, rel=0.02)
    with pytest.raises(ValueError, match="cannot cost that"):
        matched(plan_from("pyramiddrop", 1.0), deep, "tokens", 100)


def test_matching_says_what_cannot_be(pricing):
    with pytest.raises(ValueError, match="cannot cost that; the nearest is flops=.* with fastv@6:0"):
        matched(plan_from("fastv@6:64"), pricing, "flops", 0.3)
    assert plan_name(matched(plan_from("blind"), pricing, "flops", 0.3)) == "blind"


@pytest.mark.parametrize(
    ("measure", "wanted", "keep"), [("tokens", 150, 144), ("tokens", 9, 9), ("flops", 0.17, 144), ("kv", 0.125, 36)]
)
def test_m3_gets_the_nearest_scale_that_it_has(pricing, measure, wanted, keep):
    (stage,) = matched(plan_from("m3", 1.0), pricing, measure, wanted)
    assert stage.keep == keep


def test_m3_says_which_scales_it_has(pricing):
    with pytest.raises(ValueError, match="m3 cannot cost that.* it can have 1, 4, 9, 16, 36, 64, 144, 576"):
        matched(plan_from("m3", 1.0), pricing, "tokens", 100)


@pytest.mark.parametrize(
    "text",
    [
        "flops",
        "flops=",
        "flops=0",
        "flops=1.5",
        "tokens=-1",
        "budget=3",
        "tokens=nan",
        "tokens=inf",
        "kv=2",
        "latency=1.1",
        "latency",
    ],
)
def test_match_is_read_or_refused(text):
    assert parse_match("tokens=128") == ("tokens", 128) and parse_match("kv=.3") == ("kv", 0.3)
    with pytest.raises(ValueError, match="--match"):
        parse_match(text)

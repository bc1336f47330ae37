"""Controls and matched budgets: what is compared costs what it is said to cost."""

from __future__ import annotations

import pytest
import torch

from llava.eval.ask.controls import Pricing, matched, parse_match, random_control, spatial_controls, with_controls
from llava.eval.ask.opening import tokens_of_picture
from llava.model.builder import read_config
from llava.reduction import plan_from, plan_name, reduced
from llava.reduction.stage import tokens_left
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


def test_every_table_has_its_controls(pricing):
    names = [plan_name(plan) for plan in with_controls([plan_from("fastv@2:64")], 8, pricing)]
    assert names == [
        "fastv@2-64", "full", "blind", "random@2-64", "random@2-64_seed=1", "random@2-64_seed=2",
        "grid-192", "pool-192", "downsample-196",
    ]  # fmt: skip


def test_controls_cost_what_their_plan_costs(pricing):
    plan = plan_from("himap@1:200+himap@4:100,rows=image")
    twins = [other for other in with_controls([plan], 8, pricing) if other and other[0].name == "random"]
    assert len(twins) == 3
    assert all(pricing.visual(twin) == pricing.visual(plan) for twin in twins)
    # all but HiMAP's own selection, which is not free in a model of this width
    assert pricing.flops(plan) * 0.95 < pricing.flops(twins[0]) < pricing.flops(plan)


def test_methods_at_one_cost_share_their_controls_and_controls_have_none(pricing):
    plans = [plan_from(spec) for spec in ("fastv@2:64", "text_weighted@2:64", "random@2:64", "pool:64")]
    names = [plan_name(plan) for plan in with_controls(plans, 8, pricing)]
    assert len(names) == len(set(names)) == 11
    assert [plan_name(plan) for plan in with_controls([[]], 8, pricing)] == ["full", "blind"]


def test_pictures_of_unequal_length_get_the_controls_that_need_no_count():
    names = [plan_name(plan) for plan in with_controls([plan_from("fastv@2:64")], 8, None)]
    assert names == ["fastv@2-64", "full", "blind", "random@2-64", "random@2-64_seed=1", "random@2-64_seed=2"]


def test_a_plan_placed_otherwise_has_its_random_control_placed_alike(pricing):
    """A masked plan computes every token, so that random tokens are masked too, and no shorter control costs the same."""
    plan = plan_from("fastv@2:64,place=mask")
    names = [plan_name(other) for other in with_controls([plan], 8, pricing)]
    assert names[3:] == [f"random@2-64{seed}_place=mask" for seed in ("", "_seed=1", "_seed=2")]
    compact = random_control(plan_from("fastv@2:64,positions=compact"), 8)
    assert [str(stage) for stage in compact] == ["random@2:64,positions=compact"]


def test_a_cut_off_stays_in_the_random_control(pricing):
    plan = plan_from("himap@2:288+himap@4:72,rows=image+blind@6")
    controls = with_controls([plan], 8, pricing)
    twins = [other for other in controls if other and other[0].name == "random"]
    assert [str(stage) for stage in twins[0]] == ["random@2:288", "random@4:72", "blind@6"]
    assert len(twins) == 3 and all(pricing.visual(twin) == pricing.visual(plan) for twin in twins)
    assert {"grid-234", "pool-234", "downsample-225"} <= {plan_name(other) for other in controls}


def test_a_withdrawal_is_held_against_as_many_tokens_from_the_beginning(pricing):
    names = [plan_name(other) for other in with_controls([plan_from("blind@2")], 8, pricing)]
    assert {"random-0.25", "random-0.25_seed=1", "grid-144"} <= set(names)


def test_an_adaptive_plan_has_controls_at_what_it_kept(pricing):
    """Up to 100 tokens, of which the pictures needed 40 on average: 2 of 8 layers see all 576, and 6 see 40."""
    plan = plan_from("condensation@2:100,cover=0.9")
    assert random_control(plan, 8) is None and spatial_controls(plan, pricing) == {}
    names = {plan_name(other) for other in with_controls([plan], 8, pricing, {plan_name(plan): [576] * 2 + [40.4] * 6})}
    assert {"random@2-40", "grid-174", "pool-174", "downsample-169"} <= names

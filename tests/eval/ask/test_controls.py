"""Controls: every table has them, and they cost what their plan costs."""

from __future__ import annotations

import pytest

from llava.eval.ask.controls import random_control, spatial_controls, with_controls
from llava.eval.ask.opening import tokens_of_picture
from llava.eval.ask.pricing import Pricing
from llava.model.builder import read_config
from llava.reduction import plan_from, plan_name
from tests.conftest import PARITY15


@pytest.fixture(scope="module")
def pricing() -> Pricing:
    config = read_config(PARITY15 / "checkpoint")
    return Pricing(config, tokens_of_picture(PARITY15 / "checkpoint", config), text=40)


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


def test_a_merging_tower_is_held_against_random_tokens_after_it(pricing):
    """ToMe merges in the tower, where nothing can be dropped at random."""
    (stage,) = random_control(plan_from("tome:288"), 8)
    assert (stage.name, stage.site, stage.keep) == ("random", "features", 288)


def test_a_withdrawal_is_held_against_as_many_tokens_from_the_beginning(pricing):
    names = [plan_name(other) for other in with_controls([plan_from("blind@2")], 8, pricing)]
    assert {"random-0.25", "random-0.25_seed=1", "grid-144"} <= set(names)


def test_an_adaptive_plan_has_controls_at_what_it_kept(pricing):
    """Up to 100 tokens, of which the pictures needed 40 on average: 2 of 8 layers see all 576, and 6 see 40."""
    plan = plan_from("condensation@2:100,cover=0.9")
    assert random_control(plan, 8) is None and spatial_controls(plan, pricing) == {}
    names = {plan_name(other) for other in with_controls([plan], 8, pricing, {plan_name(plan): [576] * 2 + [40.4] * 6})}
    assert {"random@2-40", "grid-174", "pool-174", "downsample-169"} <= names

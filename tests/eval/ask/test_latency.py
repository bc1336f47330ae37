"""Budgets matched in time, by a clock that is made up; and the clock that measures a model."""

from __future__ import annotations

import numpy as np
import pytest

from llava.eval.ask.latency import first_token_seconds, matched_latency, relative_seconds
from llava.eval.ask.pricing import Pricing
from llava.eval.ask.subject import LlavaSubject
from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.reduction import plan_from
from llava.reduction.plan import tokens_left

PRICING = Pricing(LlamaConfig(num_hidden_layers=32), 576)


class Clock:
    """A machine on which a pass takes 1 and as much again for 576 tokens in every layer, while it grows slower or stutters."""

    def __init__(self, slower: float = 0.0, noise: float = 0.0, stutters: float = 0.0):
        self.slower, self.noise, self.stutters = slower, noise, stutters
        self.random, self.asked = np.random.default_rng(0), []

    def __call__(self, plan: list) -> float:
        self.asked.append(plan)
        seconds = 1 + PRICING.visual(plan) / 576
        seconds *= (1 + self.slower) ** len(self.asked) * (1 + self.noise * self.random.standard_normal())
        return seconds * (20 if self.random.random() < self.stutters else 1)


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        *((spec, target) for spec in ("fastv@2", "pool") for target in (0.6, 0.75, 0.99)),
        ("himap@1:200+himap@4:100,rows=image", 0.6),
        ("pyramiddrop", 0.7),  # half of its budgets are too small for its schedule
        ("v2drop", 0.7),
    ],
)
def test_the_budget_takes_the_time_that_is_wanted(spec, target):
    clock = Clock()
    plan = matched_latency(plan_from(spec, 1.0), PRICING, target, clock)
    assert (1 + PRICING.visual(plan) / 576) / 2 == pytest.approx(target, rel=0.011)
    if "himap" in spec:
        assert plan[0].keep == pytest.approx(2 * plan[1].keep, abs=1)
    assert len(clock.asked) <= 2 * 8 * 10  # pairs and one more, ten halvings


@pytest.mark.parametrize(
    "clock", [Clock(slower=0.02), Clock(noise=0.01), Clock(stutters=0.1)], ids=["slower", "noise", "stutters"]
)
def test_what_else_the_machine_does_falls_on_both(clock):
    plan = matched_latency(plan_from("fastv@2", 1.0), PRICING, 0.75, clock, pairs=9)
    assert (1 + PRICING.visual(plan) / 576) / 2 == pytest.approx(0.75, rel=0.025)


def test_plan_and_reference_take_turns_after_a_pair_that_is_not_counted():
    plan, reference, asked = plan_from("fastv@2:64"), plan_from("pool:64"), []
    first = iter([100.0, 1.0, 4.0, 80.0])  # a cold start, then a stutter

    def seconds(one: list) -> float:
        asked.append(one[0].name)
        return next(first, 2.0 if one is plan else 4.0)

    assert relative_seconds(plan, reference, seconds, pairs=3) == 0.5
    assert asked == ["fastv", "pool", "pool", "fastv", "fastv", "pool", "pool", "fastv"]


def test_another_plan_can_be_what_times_are_shares_of():
    clock, reference = Clock(), plan_from("fastv@2:300")
    plan = matched_latency(plan_from("pool", 1.0), PRICING, 0.9, clock, reference)
    assert PRICING.visual(plan) == pytest.approx(0.9 * (576 + PRICING.visual(reference)) - 576, abs=10)
    assert reference in clock.asked and [] not in clock.asked


def test_what_no_budget_reaches_is_said_and_what_has_none_stays():
    with pytest.raises(
        ValueError,
        match="--match latency=0.3: fastv@2 cannot cost that; the nearest is latency=0.531 with fastv@2:0",
    ):
        matched_latency(plan_from("fastv@2", 1.0), PRICING, 0.3, Clock())
    clock, blind = Clock(), plan_from("blind")
    assert matched_latency(blind, PRICING, 0.3, clock) is blind and not clock.asked


def test_times_that_scatter_are_no_fault_of_the_plan():
    """The first budget that is tried looks slow, all below it fast: the wanted time lies between two neighbours."""

    def seconds(plan: list) -> float:
        return 1.0 if not plan or plan[0].keep == 576 else 0.8 if plan[0].keep >= 288 else 0.6

    with pytest.raises(
        ValueError, match="fastv@2 was measured on both sides of that.* 0.800 from.*repeat while nothing"
    ):
        matched_latency(plan_from("fastv@2", 1.0), PRICING, 0.7, seconds)


@pytest.mark.parametrize("spec", ["", "fastv@2:64", "pool:16", "downsample:144", "vispruner:64", "tome:300"])
def test_a_model_is_measured_under_every_kind_of_plan(llava15, spec):
    subject = LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")
    seconds, plan = first_token_seconds(subject, "What is it?"), plan_from(spec)
    assert 0 < seconds(plan) < 60
    layers = llava15.model.config.num_hidden_layers
    assert llava15.model.last_cost()[0].visual_per_layer == tokens_left(plan, 576, layers)

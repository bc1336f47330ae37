"""What a label means, against counts that were worked out by hand from the papers."""

from __future__ import annotations

import pytest

from llava.reduction import plan_from
from llava.reduction.accounting import account, selection_flops


@pytest.mark.parametrize(
    ("plan", "mean", "flops"),
    [
        ("random@prompt:128", 128.0, 0.290),
        ("random@prompt:64", 64.0, 0.191),
        ("fastv@2:144", 171.0, 0.358),
        ("fastv@2:98", 127.9, 0.291),
        ("pyramiddrop", 270.0, 0.515),
        ("himap@2:288+himap@8:72,rows=image", 144.0, 0.316),
        ("blind@15", 270.0, 0.518),
        ("random@prompt:96+random@16:32", 64.0, 0.191),
    ],
)
def test_mean_tokens_and_share_of_operations(plan, mean, flops):
    label = account("", "128", plan_from(plan))
    assert label.mean == pytest.approx(mean, abs=0.06) and label.flops == pytest.approx(flops, abs=0.0015)


@pytest.mark.parametrize("site", ["features", "projected"])
def test_what_is_read_of_the_tower_is_priced_at_its_width_wherever_the_stage_stands(site):
    """Keys of 577 rows and one query of 1024 numbers each: 2 x 578 x 1024^2 + 2 x 577 x 1024."""
    assert selection_flops(plan_from(f"fastervlm@{site}:64")) == 2 * 578 * 1024**2 + 2 * 577 * 1024


def test_the_tower_is_read_whole_however_few_tokens_an_earlier_stage_leaves():
    two = selection_flops(plan_from("divprune@features:64+fastervlm@projected:32"))
    assert two == selection_flops(plan_from("divprune@features:64")) + selection_flops(plan_from("fastervlm:32"))


def test_a_smaller_picture_has_fewer_patches_and_every_crop_is_read():
    """144 patches of 12 x 12."""
    small = selection_flops(plan_from("downsample:144+fastervlm:32"))
    assert small == 2 * 146 * 1024**2 + 2 * 145 * 1024
    five = selection_flops(plan_from("fastervlm:320"), tokens=5 * 576, crops=5)
    assert five == 5 * selection_flops(plan_from("fastervlm:64"))


def test_patches_that_make_one_token_together_are_read_one_by_one():
    assert selection_flops(plan_from("fastervlm:16"), tokens=144, patches=576) == selection_flops(
        plan_from("fastervlm:16")
    )

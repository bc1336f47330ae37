"""What a label means, against counts that were worked out by hand from the papers."""

from __future__ import annotations

import pytest

from llava.reduction import plan_from
from llava.reduction.accounting import account


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

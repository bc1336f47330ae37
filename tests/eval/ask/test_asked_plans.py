"""Where an evaluation takes its plan from: the command line, LLAVA_REDUCTION, the checkpoint, in this order."""

from __future__ import annotations

import pytest

from llava.cli.settings import PlanSpec
from llava.eval.ask.plans import plans_from
from llava.model.language_model.himap_configuration_llama import LlamaConfig


@pytest.mark.parametrize(
    ("spec", "environment", "expected"),
    [
        (PlanSpec(), "", "fastv@2:9"),
        (PlanSpec(), "divprune:4", "divprune:4"),
        (PlanSpec(("full",)), "divprune:4", "full"),
        (PlanSpec(knobs={"reduction": "pool:4"}), "divprune:4", "pool:4"),
    ],
)
def test_the_first_that_names_a_plan_decides(spec, environment, expected, monkeypatch):
    monkeypatch.setenv("LLAVA_REDUCTION", environment)
    (plan,) = plans_from(spec, LlamaConfig(num_hidden_layers=8, reduction="fastv@2:9"))
    assert "+".join(map(str, plan)) == expected

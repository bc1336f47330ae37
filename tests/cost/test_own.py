"""LLaVA's own layout: what is counted before is what ``last_cost`` says behind a real prefill."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from llava.cost import Prompt, estimates, from_config
from llava.cost.estimate import pictures
from llava.reduction import reduced
from tests.conftest import PARITY15, PARITY16, World

PLANS = [
    "", "fastv@2:64", "fastv@2:25%", "divprune:64", "divprune@prompt:64", "visionzip:64", "pool:64+fastv@2:16", "downsample:64",
    "downsample:100+fastv@2:9", "tome:150", "pyramiddrop", "blind",
]  # fmt: skip


def compared(world: World, case: dict, folder, plan: str) -> None:
    """Token by token; selectors may differ, as the kept of an adaptive method and rows of a padded batch do."""
    host = from_config(folder)
    with torch.no_grad(), reduced(world.model, plan):
        world.model(**world.inputs(case))
    cost = world.model.last_cost()[0]
    sizes = world.inputs(case)["image_sizes"][:1] if "image_sizes" in world.inputs(case) else [(640, 480)]
    prompt = Prompt(tuple(map(tuple, sizes)), text=1)
    (seen,) = pictures(host, prompt)
    with torch.no_grad(), reduced(world.model, ""):
        world.model(**world.inputs(case))
    dense = world.model.last_cost()[0]
    assert dense.visual_per_layer[0] == seen.tokens
    prompt = dataclasses.replace(prompt, text=dense.rows_per_layer[0] - seen.tokens)
    counted = estimates(host, prompt, [plan], bytes_per_number=4)[1].cost
    assert counted.visual_per_layer == cost.visual_per_layer
    assert counted.rows_per_layer == cost.rows_per_layer
    assert counted.projector_flops == cost.projector_flops
    assert counted.llm_flops == cost.llm_flops and counted.kv_bytes == cost.kv_bytes
    assert counted.tower_flops == pytest.approx(cost.tower_flops, rel=1e-6)
    assert counted.selector_flops == pytest.approx(cost.selector_flops, rel=0.2)


@pytest.mark.parametrize("plan", PLANS)
def test_one_crop(llava15, plan):
    compared(llava15, llava15.cases()[0], PARITY15 / "checkpoint", plan)


@pytest.mark.parametrize("plan", PLANS)
def test_anyres(llava16, plan, monkeypatch):
    monkeypatch.setattr(llava16.model.config, "tokenizer_model_max_length", 4096)  # else the prompt is cut
    case = next(case for case in llava16.cases() if len(case["images"]) == 1)
    compared(llava16, case, PARITY16 / "checkpoint", plan)

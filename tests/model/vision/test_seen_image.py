"""Pictures that the tower has seen once are asked about again: the same answers, and what was not kept is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch

from llava.model.vision.seen import needs_pixels, tower_share
from llava.reduction import get_method, method_names, plan_from
from llava.reduction.stage import BATCHED_SITES, CROP_SITES
from tests.tower import early_plan

EARLY = [name for name in method_names() if {*BATCHED_SITES, *CROP_SITES} & set(get_method(name).sites)]
READERS = ["fastervlm:64", "hired:64", "prumerge:64", "tome:300", "visionzip:64", "vscan:64,shallow=0"]


@pytest.fixture(scope="module")
def asked(llava15):
    """A question about two different pictures, as keywords."""
    case = llava15.inputs(llava15.cases()[0])
    pixels = torch.cat([case["images"], case["images"].flip(-1) * 0.7])
    return {"input_ids": case["input_ids"].expand(2, -1), "images": pixels}


def logits(model, asked, plan, **given):
    """Of the last row, with what was kept and what it cost."""
    with torch.no_grad():
        found = model(asked["input_ids"], **given, reduction=plan).logits[:, -1]
    return found, [record.kept for record in model.last_trace], model.last_cost()


@pytest.mark.parametrize("name", EARLY)
def test_what_was_seen_is_worth_the_images(llava15, asked, name):
    model, plan = llava15.model, early_plan(name)
    seeds = model.image_seeds(asked["images"])
    expected, kept, costs = logits(model, asked, plan, images=asked["images"])
    seen = model.encode_seen(asked["images"], plan)
    # Each by itself, to be joined again
    again, kept_again, costs_again = logits(model, asked, plan, raw_vision_features=seen, image_seeds=seeds)
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)
    assert all(torch.equal(one, other) for one, other in zip(kept, kept_again, strict=True))
    assert costs_again == costs


@pytest.mark.parametrize("plan", READERS)
def test_the_tower_is_not_asked_again(llava15, asked, plan, monkeypatch):
    model = llava15.model
    seen = model.encode_seen(asked["images"], plan)
    monkeypatch.setattr(model.get_vision_tower(), "encode", None)
    logits(model, asked, plan, raw_vision_features=seen)


@pytest.mark.parametrize("plan", ["fastervlm:64", "tome:300", "divprune:64"])
def test_pictures_of_several_crops(llava16, plan):
    model = llava16.model
    case = llava16.inputs(next(case for case in llava16.cases() if case["images"]))
    plan = plan.replace("tome:300", "tome:0.6")
    with torch.no_grad():
        expected = model(**case, reduction=plan).logits[:, -1]
        seen = model.encode_seen(case["images"], plan)
        assert not seen[0].plain and len(seen[0].features) > 1
        given = case | {"images": None, "raw_vision_features": seen, "image_seeds": model.image_seeds(case["images"])}
        torch.testing.assert_close(model(**given, reduction=plan).logits[:, -1], expected, rtol=0, atol=1e-5)


def test_a_plan_that_asks_for_less_is_served(llava15, asked):
    model = llava15.model
    seen = model.encode_seen(asked["images"], "hired:64")
    for plan in ("", "divprune:64", "fastervlm:64", "fastv@2:64"):
        expected = logits(model, asked, plan, images=asked["images"])[0]
        again = logits(model, asked, plan, raw_vision_features=seen)[0]
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def test_the_class_token_stays_where_the_tower_keeps_it(llava15, asked, monkeypatch):
    model = llava15.model
    tower = copy.copy(model.get_vision_tower())
    tower.select_feature = "cls_patch"
    monkeypatch.setattr(model.get_model(), "get_vision_tower", lambda: tower)
    seen = model.encode_seen(asked["images"], "fastervlm:64")
    for plan in ("", "fastervlm:64"):
        expected = logits(model, asked, plan, images=asked["images"])[0]
        torch.testing.assert_close(logits(model, asked, plan, raw_vision_features=seen)[0], expected, rtol=0, atol=1e-5)
    assert [len(raw) for raw in model.encode_raw(asked["images"])] == [577, 577]


@pytest.mark.parametrize(
    ("made", "plan", "message"),
    [
        ("", "fastervlm:64", "fastervlm:64 reads more of the tower than raw_vision_features tell.*encode_seen"),
        ("fastervlm:64", "hired:64", r"hired:64 reads more .* \(of its layer 0\)"),
        ("tome:300", "", "made with tome:300 in the tower, where the plan has none"),
        ("tome:300", "tome:200", "made with tome:300 in the tower, where the plan has tome:200"),
        ("fastervlm:64", "tome:300", "made with no merge in the tower, where the plan has tome:300"),
        ("fastervlm:64", "downsample:64", "of 576 patches, but the plan shrinks pictures to 64"),
    ],
)
def test_what_was_not_kept_is_named(llava15, asked, made, plan, message):
    seen = llava15.model.encode_seen(asked["images"], made)
    with pytest.raises(ValueError, match=message):
        logits(llava15.model, asked, plan, raw_vision_features=seen)


def test_plans_that_ask_the_tower_alike_share_a_picture():
    groups = [
        ["", "divprune:64", "fastv@2:9", "random@features:64", "pyramiddrop"],
        ["fastervlm:64", "visionzip:32", "vispruner:16", "fastervlm:64+fastv@2:9"],
        ["hired:64"],
        ["prumerge:64"],
        ["tome:300"],
        ["tome:200"],
        ["downsample:64", "downsample:64+fastv@2:9"],
        ["downsample:64+fastervlm:9"],
        ["cdpruner:64"],
        ["vscan:64"],
        ["vscan:64,shallow=0"],
        ["tops:64"],
    ]
    keys = [{tower_share(plan_from(plan)) for plan in group} for group in groups]
    assert all(len(key) == 1 for key in keys) and len(set().union(*keys)) == len(groups)
    needing = [plan for group in groups for plan in group if needs_pixels(plan_from(plan))]
    assert "tome:300" in needing and "downsample:64" not in needing

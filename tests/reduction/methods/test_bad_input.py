"""What cannot be is refused with a way out, before anything of the prompt has changed."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import make_stage, plan_from, reduced, spelled_out
from llava.reduction.views import Views, reduce_images
from tests.tiny import prompt, tiny_model


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ("visionzip:1", "keep=1 of visionzip must be a count of at least 2"),
        ("trim:1", "keep=1 of trim must be a count of at least 2"),
        ("prumerge:1", "keep=1 of prumerge must be a count of at least 2"),
        ("visionzip@layer:64", "visionzip cannot stand at site='layer'; it can at features"),
        ("visionzip@2:64", "it can at features, projected, as in visionzip@features"),
        ("fastv@prompt:64", "fastv cannot stand at site='prompt'; it can at layer, as in fastv@2"),
        ("tome@features:64", "tome cannot stand at site='features'; it can at tower"),
        ("tome:64,per=image", "per='image' of tome: at site='tower' a budget is for each crop; leave per out"),
        (
            "trim@features:64,relevance=embeddings",
            "which site='features' lacks; with these options it can stand at projected",
        ),
        ("vispruner:64,important=2", "important=2 must be a share between 0 and 1"),
        ("scope:64,alpha=-1", "alpha=-1 must be a number of at least 0"),
        ("cdpruner:64,theta=1", "theta=1 must be a number of at least 0 and below 1"),
        ("cdpruner:64,relevance=clp", "relevance='clp' is unknown; did you mean 'clip'"),
        ("fastervlm:64,saliency=class", "choose one of cls, mean_attention"),
        ("hired:64,alpha=1.5", "alpha=1.5 must be a share between 0 and 1"),
        ("prumerge_plus:64,ratio=0.1", "ratio=0.1 must be a share above 0, with mode='code'"),
        ("pyramiddrop:layers=8-x", "layers='8-x' must be layers of 32 joined by dashes"),
        ("tome:64,inflect=2", "inflect=2 must be a number between -1 and 1"),
        ("visionzip:64+tome:32", "out of order at tome:32; write pixels, tower, features"),
        (
            "sparsevlm:577",
            "its schedule is for pictures of 576 tokens; give keep<=576, a fraction, or one stage in a layer",
        ),
        ("pyramiddrop:900", "give keep<=576"),
        ("fastv@2:64+fastv@4:128", "exceeds the 64 tokens that fastv@2:64 leaves"),
    ],
)
def test_a_plan_that_cannot_be(plan, says):
    with pytest.raises(ValueError) as error:
        plan_from(plan)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("plan", "layers", "says"),
    [
        ("pyramiddrop", 3, "a schedule of 3 stages needs more than the 3 layers of this model"),
        ("pyramiddrop:64", 32, "keep=64 of pyramiddrop cannot be the mean over the layers"),
        ("feather:64", 32, "keep=64 of feather must be above a quarter"),
        ("fastv@2:64+pyramiddrop", 32, "exceeds the 64 tokens|out of order"),
        ("sparsevlm:64+fastv@3:40", 32, "out of order at fastv@3:40"),
    ],
)
def test_a_schedule_that_cannot_be_spelled_out(plan, layers, says):
    if "|" in says:  # shares never grow, whatever stands before
        assert [stage.layer for stage in spelled_out(plan_from(plan), layers)] == [2, 8, 16, 24]
        return
    with pytest.raises(ValueError) as error:
        spelled_out(plan_from(plan), layers)
    assert says in str(error.value)


def test_contextual_tokens_leave_room_for_dominant_ones():
    reducer = make_stage("visionzip", keep=8, contextual=8).reducer
    with pytest.raises(
        ValueError,
        match="contextual=8 of visionzip leaves no dominant token of the 8 .* keep more than 8 for each crop",
    ):
        reducer._contextual(8)


def test_without_a_tower_its_evidence_is_missed_in_words():
    views = Views(list(torch.randn(2, 36, 8)), torch.arange(2), (6, 6))
    with pytest.raises(ValueError, match="nothing is known of the tower here; stand at site='features' or 'projected'"):
        reduce_images(plan_from("fastervlm:8"), "features", views)


@pytest.mark.parametrize(
    ("second", "where"), [("pool@projected:4", "features"), ("eadp@projected:8,relevance=embeddings", "projected")]
)
def test_the_way_out_of_a_grid_that_is_gone_is_a_site_where_the_method_can_stand(second, where):
    views = Views(list(torch.randn(2, 36, 8)), torch.arange(2), (6, 6))
    left, _ = reduce_images(plan_from("grid@features:16"), "features", views)
    with pytest.raises(ValueError, match=f"these 16 tokens have none.*make it the first stage, at site='{where}'"):
        reduce_images(plan_from(second), "projected", left)


def test_a_grid_that_is_gone_is_missed_in_words_and_nothing_is_half_applied():
    model, batch = tiny_model(), prompt((5, 25, 9))
    grids = torch.full((1, 1, 2), 5)
    with torch.no_grad():
        dense = model(**batch.inputs).logits
        with (
            reduced(model, "random@1:16+fastv@2:8,grid=0.5"),
            pytest.raises(ValueError, match="do not lie on a grid here.*the first, or choose a method that reads none"),
        ):
            model(**batch.inputs, grids=grids)
        assert torch.equal(model(**batch.inputs).logits, dense)
        with reduced(model, "fastv@2:8,grid=0.5"):
            model(**batch.inputs, grids=grids)
    assert model.model.last_trace[0].after.tolist() == [8]

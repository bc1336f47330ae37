"""Stages at work: budgets shared among crops, images that keep different numbers, masks that stay masked."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import Evidence, Place, Reducer, Stage, plan_from, reduced
from llava.reduction.apply import choose
from llava.reduction.views import Views, reduce_images
from tests.tiny import prompt, tiny_model


def crops_kept(text: str, pictures: list[int], length: int = 36) -> list[int]:
    torch.manual_seed(0)
    crops = list(torch.randn(len(pictures), length, 8))
    side = int(length**0.5)
    views = Views(crops, torch.arange(len(pictures)), (side, side), owners=pictures)
    shorter, (record,) = reduce_images(plan_from(text), "features", views)
    assert record.after.tolist() == shorter.lengths
    return record.after.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("random@features:64", [13, 13, 13, 13, 12, 32, 32]),
        ("pool:7", [2, 1, 2, 1, 1, 4, 3]),
        ("grid:3", [1, 1, 0, 1, 0, 2, 1]),
        ("condensation@features:3,heads=1", [1, 1, 0, 1, 0, 2, 1]),
        ("custom_selection@features:1000", [36] * 7),
        ("stride@features:0.25", [9] * 7),
        ("stride@features:0.1", [4, 4, 3, 4, 3, 4, 3]),  # 18 of 180, 7 of 72
        ("random@features:7,per=crop", [7] * 7),
        ("full", [36] * 7),
        ("blind", [0] * 7),
    ],
)
def test_a_budget_is_shared_evenly_among_the_crops_of_a_picture(text, expected):
    """Five crops of one picture and two of another, 36 tokens each."""
    assert crops_kept(text, [0] * 5 + [1] * 2) == expected


def test_a_budget_above_a_pictures_tokens_is_refused_and_one_above_a_crops_is_not():
    assert sum(crops_kept("random@features:100", [0] * 3)) == 100
    with pytest.raises(ValueError, match="keep=109 .* exceeds the 108 image tokens"):
        crops_kept("random@features:109", [0] * 3)
    with pytest.raises(ValueError, match="keep=37 .* exceeds the 36 image tokens"):
        crops_kept("random@features:37,per=crop", [0] * 3)
    with pytest.raises(ValueError, match="owners has 2 entries for 3 crops"):
        reduce_images(plan_from("blind"), "features", Views(list(torch.randn(3, 4, 8)), torch.arange(3), owners=[0, 1]))


def test_shares_of_unequal_crops_follow_their_lengths():
    stage = plan_from("random@features:10")[0]
    assert stage.shares([5, 10, 5]) == [3, 5, 2] and stage.shares([20]) == [10]
    for lengths in ([3, 1, 9, 7], [1] * 20, [19, 1]):
        shares = stage.shares(lengths)
        assert sum(shares) == 10 and all(0 <= share <= length for share, length in zip(shares, lengths))


@pytest.mark.parametrize(("text", "tokens", "expected"), [
    ("random@2:0.25", 10, 2), ("random@2:0.35", 10, 4), ("random@2:0.17", 10, 2), ("random@2:0.19", 24, 5), ("random@2:0.0", 24, 0),
    ("condensation@2:0.0", 24, 1), ("condensation@2:0.01", 24, 1), ("random@2:1.0", 7, 7),
])  # fmt: skip
def test_a_share_is_rounded_to_the_nearest_and_keeps_the_least(text, tokens, expected):
    assert plan_from(text)[0].budget(tokens) == expected


class Above(Reducer):
    """Keep the tokens whose first feature is above zero: another number for every image."""

    name = "above"
    wants_keep = False
    merges = True

    def select(self, tokens, evidence, k):
        return tokens[..., 0] > 0

    def aggregate(self, tokens, kept, evidence):
        picked = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
        return picked + evidence.seeds[:, None, None] + evidence.question[0].mean(1, keepdim=True)


def test_where_images_keep_different_numbers_each_gets_its_own_evidence():
    torch.manual_seed(0)
    tokens, words = torch.randn(5, 12, 4), torch.randn(5, 3, 4)
    evidence = Evidence(torch.arange(5) * 100, question=(words, torch.ones(5, 3, dtype=torch.bool)))
    parts = choose(Stage(Above(), "prompt"), tokens, evidence, None)
    assert len(parts) > 1
    for images, kept, merged in ((part.rows, part.kept, part.merged.tokens) for part in parts):
        for row, image in enumerate(images.tolist()):
            own = tokens[image][tokens[image, :, 0] > 0]
            torch.testing.assert_close(merged[row], own + 100 * image + words[image].mean(0))
            assert kept[row].tolist() == (tokens[image, :, 0] > 0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("last", [Place.DROP, Place.MASK])
@pytest.mark.parametrize("first", [Place.DROP, Place.MASK])
@pytest.mark.parametrize("names", [("random", "fastv"), ("fastv", "himap"), ("text_weighted", "condensation")])
def test_two_stages_in_any_placements_are_one_function(first, last, names):
    """Masked tokens neither come back nor are chosen again by a later stage, whatever becomes of its own."""
    model, batch = tiny_model(), prompt((5, 24, 9), (3, 16, 6), (20,))
    outcomes = []
    for places in ((Place.DROP, Place.DROP), (first, last)):
        plan = f"{names[0]}@2:11,place={places[0]}+{names[1]}@4:5,place={places[1]}"
        with torch.no_grad(), reduced(model, plan):
            logits = model(**batch.inputs).logits[:, -1]
        second = model.model.last_trace[1]
        assert second.before.tolist() == [11, 11, 0] and second.after.tolist() == [5, 5, 0]
        outcomes.append((logits, second.kept_origins(0, text=False).tolist()))
        left = (
            24 - 13 * (places[0] is Place.DROP) - 6 * (places[1] is Place.DROP)
        )  # a later drop takes its own tokens only
        assert model.model.last_rows_per_layer[-1, 0] == 14 + left
    assert outcomes[0][1] == outcomes[1][1]
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0], rtol=0, atol=2e-5)


def test_zero_filled_tokens_are_the_last_stage_of_a_plan():
    model, batch = tiny_model(), prompt((5, 24, 9))
    for first in (Place.DROP, Place.MASK):
        with torch.no_grad(), reduced(model, f"random@2:11,place={first}+custom_selection@4:5,place=zero_fill"):
            model(**batch.inputs)
        assert model.model.last_trace[1].before.tolist() == [11] and model.model.last_trace[1].after.tolist() == [5]

"""VScan against its rule written out for one picture at a time, and on a picture where the windows matter."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import make_stage, plan_from, spelled_out
from llava.reduction.apply import choose
from llava.reduction.plan import tokens_left
from tests.reduction.methods.golden import about
from tests.tower import seen

SIDE = 6


def attentions(images: int, seed: int = 0) -> dict[int, torch.Tensor]:
    torch.manual_seed(seed)
    return {layer: torch.randn(images, 3, 1 + SIDE * SIDE).softmax(-1) for layer in (5, -2, 0)}


def plain(deep: list[float], shallow: list[float], keep: int, share: float, window: int) -> list[int]:
    """The tokens of one picture: the highest of all, then the best of each window in turn."""
    tokens = range(SIDE * SIDE)
    kept = sorted(tokens, key=lambda i: (-deep[i], i))[: round(keep * share)]
    windows: dict[tuple[int, int], list[int]] = {}
    for i in tokens:
        if i not in kept:
            windows.setdefault((i // SIDE // window, i % SIDE // window), []).append(i)
    lists = [sorted(members, key=lambda i: (-shallow[i], i)) for members in windows.values()]
    while len(kept) < keep:
        turn = [members.pop(0) for members in lists if members]
        kept += sorted(turn, key=lambda i: (-shallow[i], i))[: keep - len(kept)]
    return sorted(kept)


@pytest.mark.parametrize("window", [1, 2, 4, 6])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 7, 12, 35])
def test_it_is_the_rule_written_out(keep, share, window):
    torch.manual_seed(1)
    tokens, given = torch.randn(3, SIDE * SIDE, 8), attentions(3)
    stage = make_stage("vscan", site="features", keep=keep, share=share, window=window)
    (part,) = choose(stage, tokens, about(tokens, cls_attention=given), keep)
    for image in range(3):
        deep, shallow = (given[layer][image].mean(0)[1:].tolist() for layer in (-2, 5))
        kept = plain(deep, shallow, keep, share, window)
        assert part.kept[image].tolist() == kept
        members: list[list[int]] = [[i] for i in kept]
        for i in set(range(SIDE * SIDE)) - set(kept):
            alike = torch.nn.functional.cosine_similarity(tokens[image, i][None], tokens[image, kept], dim=1)
            members[int(alike.argmax())].append(i)
        for place, group in enumerate(members):
            torch.testing.assert_close(part.merged.tokens[image, place], tokens[image, group].mean(0))


def test_a_window_that_the_deep_layer_overlooks_has_its_best_token():
    """All deep attention lies in the first window, so that the local half is one token of each window."""
    shallow = torch.full((1, 1, 1 + SIDE * SIDE), 0.001)
    deep = shallow.clone()
    deep[..., 1:4] = 1
    best = [14, 9, 25, 28]  # one of each 3 x 3 window
    shallow[..., [1 + i for i in best]] = torch.tensor([0.5, 0.2, 0.3, 0.1])
    tokens = torch.randn(1, SIDE * SIDE, 8)
    stage = make_stage("vscan", site="features", keep=8, window=3, merge=False)
    (part,) = choose(stage, tokens, about(tokens, cls_attention={-2: deep, 5: shallow}), 8)
    assert set(best) <= set(part.kept[0].tolist()) and {0, 1, 2} <= set(part.kept[0].tolist())
    assert torch.equal(part.merged.tokens[0], tokens[0, part.kept[0]])


@pytest.mark.parametrize(
    ("keep", "entering", "left"), [(192, 288, 96), (128, 192, 64), (64, 96, 32), (500, 576, 424), (576, 576, 576)]
)
def test_a_budget_is_the_mean_over_the_layers(keep, entering, left):
    counts = tokens_left(plan_from(f"vscan:{keep}"), 576, 32)
    assert counts == [entering] * 16 + [left] * 16 and sum(counts) / 32 == keep
    assert tokens_left(plan_from(f"vscan:{keep / 576}"), 576, 32) == counts


def test_the_name_alone_is_label_192_and_empty_budgets_are_empty():
    assert tokens_left(plan_from("vscan"), 576, 32) == tokens_left(plan_from("vscan:192"), 576, 32)
    assert tokens_left(plan_from("vscan:0.0"), 576, 32) == [0] * 32 == tokens_left(plan_from("vscan:0"), 576, 32)


def test_positions_of_the_stage_in_the_decoder_are_those_asked_for():
    for text, positions in (("vscan:64", "compact"), ("vscan:64,positions=original", "original")):
        first, second = spelled_out(plan_from(text), 8)
        assert (first.site, second.layer, second.name, second.positions) == ("features", 4, "pyramiddrop", positions)


def test_a_tower_is_asked_for_both_layers():
    tower = seen(torch.randn(2, 3, 32, 32), layers=(0, -2))
    tokens = tower.hidden[:, 1:]
    evidence = about(tokens)
    evidence.tower = tower
    stage = make_stage("vscan", site="features", keep=16, shallow=0, window=4)
    (part,) = choose(stage, tokens, evidence, 16)
    assert part.kept.shape == (2, 16)


@pytest.mark.parametrize("options", [{"share": 1.5}, {"window": 0}, {"shallow": -1}, {"merge": 1}, {"saliency": "x"}])
def test_what_cannot_be_is_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make_stage("vscan", keep=4, **options)

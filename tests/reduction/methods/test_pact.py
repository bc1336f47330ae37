"""PACT against its algorithm written out for one picture at a time, and on a picture whose clusters are plain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from llava.reduction import make_stage, reduced
from llava.reduction.apply import choose
from tests.tiny import prompt, tiny_model

HEADS, WIDTH = 4, 8  # of the queries


@dataclass
class Given:
    """What PACT asks the decoder for, as given: keys (G, H_kv, N, d) and queries (G, H, N, d)."""

    the_keys: Tensor
    the_queries: Tensor
    sizes: Tensor | None = None

    def keys(self, rows: str = "image", back: int = 1, rope: bool = True) -> tuple[Tensor, Tensor]:
        assert (rows, back, rope) == ("image", 0, False)
        return self.the_keys, torch.ones_like(self.the_keys[:, 0, :, 0], dtype=torch.bool)

    def queries(self, back: int = 1) -> Tensor:
        assert back == 0
        return self.the_queries

    def part(self, images: Tensor) -> Given:
        sizes = None if self.sizes is None else self.sizes[images]
        return Given(self.the_keys[images], self.the_queries[images], sizes)


def random_picture(images: int = 2, tokens: int = 30, sizes: bool = False, seed: int = 0) -> tuple[Tensor, Given]:
    torch.manual_seed(seed)
    hidden = torch.randn(images, tokens, 16) * torch.rand(images, tokens, 1) * 4
    centres = torch.randn(images, 2, 6, WIDTH).repeat_interleave(5, dim=2)[:, :, :tokens]
    keys = centres + 0.3 * torch.randn(images, 2, tokens, WIDTH)
    weight = torch.randint(1, 5, (images, tokens)).float() if sizes else None
    return hidden, Given(keys, torch.randn(images, HEADS, tokens, WIDTH), weight)


@cache
def distance(keys: Tensor, one: int, other: int) -> float:
    flat = keys.transpose(0, 1).flatten(1).double()
    return 1 - float(torch.nn.functional.cosine_similarity(flat[one], flat[other], dim=0))


def important(hidden: Tensor, keys: Tensor, queries: Tensor, count: int) -> list[int]:
    """The tokens of highest |h| times attention of the mean query, ascending."""
    score = torch.zeros(len(hidden))
    for head in range(HEADS):
        query, own = queries[head].mean(0), keys[head // (HEADS // len(keys))]
        score += (own @ query / math.sqrt(WIDTH)).softmax(0) / HEADS
    score *= hidden.norm(dim=1)
    return sorted(sorted(range(len(hidden)), key=lambda i: (-float(score[i]), i))[:count])


def centres_of(keys: Tensor, rows: list[int], cutoff: float) -> list[int]:
    """All centres among ``rows``, the densest first."""
    density = {i: sum(math.exp(-distance(keys, i, j) / cutoff) for j in rows) for i in rows}
    found: list[int] = []
    for i in sorted(rows, key=lambda i: (-density[i], i)):
        if all(distance(keys, i, centre) > cutoff for centre in found):
            found.append(i)
    return found


def merged(
    hidden: Tensor, keys: Tensor, rows: list[int], centres: list[int], reach: float, weight: Tensor
) -> list[tuple[Tensor, float]]:
    """The mean and the size of every cluster, centres ascending."""
    members: dict[int, list[int]] = {centre: [] for centre in centres}
    for i in range(len(hidden)):
        near = i if i in centres else min(centres, key=lambda centre: distance(keys, i, centre))
        if i in rows or distance(keys, i, near) <= reach:
            members[near].append(i)
    return [
        (sum(weight[i] * hidden[i] for i in members[c]) / sum(weight[i] for i in members[c]), sum(weight[members[c]]))
        for c in centres
    ]


@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("cutoff", [0.05, 0.2, 0.7])
def test_with_a_cutoff_it_is_the_papers_algorithm(cutoff, sizes):
    hidden, given = random_picture(images=3, sizes=sizes)
    stage = make_stage("pact", keep=30, cutoff=cutoff, unimportant=0.4, recover=1.5)
    parts = choose(stage, hidden, given, 30)
    assert sum(len(part.rows) for part in parts) == 3
    for part in parts:
        for number, image in enumerate(part.rows.tolist()):
            keys = given.the_keys[image]
            rows = important(hidden[image], keys, given.the_queries[image], 18)
            centres = sorted(centres_of(keys, rows, cutoff))
            assert part.kept[number].tolist() == centres
            weight = torch.ones(30) if given.sizes is None else given.sizes[image]
            expected = merged(hidden[image], keys, rows, centres, 1.5 * cutoff, weight)
            assert part.merged.sizes is not None
            for place, (mean, size) in enumerate(expected):
                torch.testing.assert_close(part.merged.tokens[number, place], mean)
                assert part.merged.sizes[number, place] == size


@pytest.mark.parametrize("keep", [4, 18])
def test_with_a_budget_the_cutoff_is_the_largest_that_has_so_many_centres(keep):
    hidden, given = random_picture()
    stage = make_stage("pact", keep=keep, unimportant=0.4)
    (part,) = choose(stage, hidden, given, keep)
    assert part.kept.shape == (2, keep)
    for image in range(2):
        keys = given.the_keys[image]
        rows = important(hidden[image], keys, given.the_queries[image], max(18, keep))
        most = max(distance(keys, i, j) for i in rows for j in rows)
        tried = [most * number / 256 for number in range(1, 256)]
        fitting = [cutoff for cutoff in tried if len(centres_of(keys, rows, cutoff)) >= keep]
        known = {tuple(sorted(centres_of(keys, rows, cutoff)[:keep])) for cutoff in fitting}
        assert tuple(part.kept[image].tolist()) in known or not fitting
        coarse = [cutoff for cutoff in tried[15::16] if len(centres_of(keys, rows, cutoff)) >= keep]
        if coarse:  # none of the coarse ones above it has as many
            near = [cutoff for cutoff in fitting if coarse[-1] <= cutoff < coarse[-1] + most / 16]
            assert part.kept[image].tolist() == sorted(centres_of(keys, rows, near[-1])[:keep])


def test_a_picture_of_three_things_becomes_three_tokens():
    """Three kinds of keys, 4, 3 and 2 of each: a centre of each kind, the mean of its kind, its number as size."""
    kinds = torch.tensor([0, 1, 0, 2, 1, 0, 1, 2, 0])
    keys = torch.eye(WIDTH)[kinds][None, None] + 0.01 * torch.arange(9.0)[:, None] * torch.eye(WIDTH)[7]
    hidden = torch.randn(1, 9, 5)
    given = Given(keys, torch.zeros(1, HEADS, 9, WIDTH))
    for options in ({"cutoff": 0.3}, {}):
        (part,) = choose(make_stage("pact", keep=3, unimportant=0.0, **options), hidden, given, 3)
        assert sorted(kinds[part.kept[0]].tolist()) == [0, 1, 2]
        for place, kind in enumerate(kinds[part.kept[0]].tolist()):
            torch.testing.assert_close(part.merged.tokens[0, place], hidden[0, kinds == kind].mean(0))
            assert part.merged.sizes is not None and part.merged.sizes[0, place] == (kinds == kind).sum()


def test_equal_tokens_keep_the_budget():
    given = Given(torch.ones(2, 2, 9, WIDTH), torch.ones(2, HEADS, 9, WIDTH))
    (part,) = choose(make_stage("pact", keep=4), torch.ones(2, 9, 5), given, 4)
    assert part.kept.tolist() == [[0, 1, 2, 3]] * 2
    assert torch.equal(part.merged.tokens, torch.ones(2, 4, 5))


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_pictures_that_decide_do_so_alone_and_in_a_batch(positions):
    model, batch = tiny_model(), prompt((5, 24, 9), (4, 16, 3, 24, 5))
    plan = f"pact@2:0.9,cutoff=0.4,unimportant=0.2,positions={positions}"
    with torch.no_grad(), reduced(model, plan):
        together = model(**batch.inputs).logits[:, -1]
        after = model.model.last_trace[0].after.tolist()
        for row in range(2):
            torch.testing.assert_close(model(**batch.row(row).inputs).logits[0, -1], together[row], rtol=0, atol=2e-5)
            assert model.model.last_trace[0].after.tolist() == [after[row]]
    assert 1 < after[0] < 20


def test_a_size_weighs_in_later_layers_where_wanted():
    model, batch = tiny_model(), prompt((5, 24, 9))
    answers = []
    for proportional in ("true", "false"):
        with torch.no_grad(), reduced(model, f"pact@2:5,proportional={proportional}"):
            answers.append(model(**batch.inputs).logits[:, -1])
    assert (answers[0] - answers[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options", [{"cutoff": 0.0}, {"cutoff": 3}, {"unimportant": 1.0}, {"recover": -1}, {"proportional": 1}]
)
def test_what_cannot_be_is_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make_stage("pact", keep=4, **options)

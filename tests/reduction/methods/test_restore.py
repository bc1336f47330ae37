"""RESTORE against loops over one picture at a time, and on tokens whose groups are plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import about, given_tower


def expected(tokens, sizes, chosen, groups):
    """Rows in their order, as (first member, place, size, row), of one picture whose ``chosen`` tokens stay as they are."""
    rest = [row for row in range(len(tokens)) if row not in chosen]
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    alike = unit @ unit.T
    density = {i: sum(alike[i, j] for j in rest) for i in rest}
    product = {}
    for i in rest:
        denser = [alike[i, j] for j in rest if density[j] > density[i]]
        product[i] = density[i] * (1 - max(denser, default=-1))
    anchors = sorted(rest, key=lambda i: -product[i])[:groups]
    members = {anchor: [] for anchor in anchors}
    for i in rest:
        members[i if i in anchors else max(anchors, key=lambda anchor: alike[i, anchor])].append(i)
    rows = [(i, i, sizes[i], tokens[i]) for i in chosen]
    for group in members.values():
        size = sum(sizes[i] for i in group)
        mean = sum(sizes[i] * tokens[i] for i in group) / size
        rows.append((group[0], group[(len(group) - 1) // 2], size, mean))
    return sorted(rows, key=lambda row: row[0])


@pytest.mark.parametrize("keep", [1, 2, 9, 20, 35])
@pytest.mark.parametrize("base", ["divprune", "holov", "vispruner"])
@pytest.mark.parametrize("sized", [False, True])
def test_groups_are_those_of_the_formulas(base, keep, sized):
    torch.manual_seed(keep)
    tokens, tower = torch.randn(3, 36, 8) + 0.5, given_tower(3, 36, 8)
    evidence = about(tokens, **tower.given)
    sizes = torch.randint(1, 5, (3, 36)) if sized else torch.ones(3, 36)
    if sized:
        evidence.sizes = sizes
    half = make_stage(base, keep=keep // 2).reducer.select(tokens, evidence, keep // 2)
    (part,) = choose(make_stage("restore", keep=keep, base=base), tokens, evidence, keep)
    for image in range(3):
        rows = expected(
            tokens[image].double().numpy(), sizes[image].tolist(), half[image].tolist(), keep - half.shape[1]
        )
        assert part.merged.origin[image].tolist() == [row[1] for row in rows]
        assert part.merged.sizes[image].tolist() == [row[2] for row in rows]
        torch.testing.assert_close(
            part.merged.tokens[image].double(), torch.tensor(np.array([row[3] for row in rows])), rtol=1e-5, atol=1e-5
        )
        assert sorted(part.merged.origin[image].tolist()) == part.kept[image].tolist()
        assert part.merged.sizes[image].sum() == sizes[image].sum()  # nothing is lost


def test_what_is_alike_becomes_one_row_at_the_place_of_its_middle():
    """Two far tokens are kept; the others lie in two bundles that are mixed in order, each of which becomes its mean."""
    far, left, right = [-1.0, 0, 0], [0.1, 1.0, 0], [0.1, 0, 1.0]
    tokens = torch.tensor([left, right, far, left, right, [1.0, -0.2, -0.2], left, right, right])[None]
    (part,) = choose(make_stage("restore", keep=4), tokens, about(tokens), 4)
    assert part.kept.tolist() == [[2, 3, 4, 5]]
    assert part.merged.origin.tolist() == [[3, 4, 2, 5]]
    assert part.merged.sizes.tolist() == [[3, 4, 1, 1]]
    torch.testing.assert_close(part.merged.tokens, tokens[:, [0, 1, 2, 5]])


def test_no_group_is_empty_where_all_tokens_are_equal():
    tokens = torch.ones(1, 9, 4)
    (part,) = choose(make_stage("restore", keep=6), tokens, about(tokens), 6)
    torch.testing.assert_close(part.merged.tokens, tokens[:, :6])
    assert sorted(part.merged.sizes[0].tolist()) == [1, 1, 1, 1, 1, 4]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="saliency='mean_attention' has no meaning for base='divprune'"):
        make_stage("restore", keep=4, saliency="mean_attention")
    with pytest.raises(ValueError, match="base='fastv'"):
        make_stage("restore", keep=4, base="fastv")
    with pytest.raises(ValueError, match="restore needs the attention of the tower's class token.*features"):
        make_stage("restore", keep=4, layer=2, base="holov")
    assert make_stage("restore", keep=4, base="holov", saliency="mean_attention").site == "projected"


@pytest.mark.parametrize("name", ["restore", "cenprune"])
def test_stages_with_another_method_within_are_equal_by_their_options(name):
    assert make_stage(name, keep=4) == make_stage(name, keep=4)
    assert make_stage(name, keep=4, base="divprune") != make_stage(
        name, keep=4, base="holov" if name == "restore" else "cdpruner"
    )

"""PruneSID against one picture and one token at a time, and on copies of which one is enough."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llava.reduction import make_stage
from llava.reduction.apply import choose
from llava.reduction.select import suppress
from tests.reduction.methods.golden import about


def plainly(tokens: Tensor, attention: Tensor, k: int, wanted: int) -> list[int]:
    """``wanted`` tokens of one picture (N, D) under a budget k, in the order in which groups claim them."""
    length = len(tokens)
    rows = tokens.double().sigmoid()
    rows = (rows - rows.mean(1, keepdim=True)).T  # (D, N)
    right = torch.linalg.svd(rows, full_matrices=False).Vh[: max(1, k // 4)]
    group = [int(right[:, i].abs().argmax()) for i in range(length)]
    unit = tokens / tokens.norm(dim=1, keepdim=True)
    pairs = [float(unit[i] @ unit[j]) for i in range(length) for j in range(length) if i != j]
    limit = k / 32 * sum(pairs) / len(pairs)
    left: dict[int, list[int]] = {}
    order = sorted(range(length), key=lambda i: -float(attention[i]))
    for i in order:
        if all(float(unit[i] @ unit[j]) <= limit for j in left.get(group[i], [])):
            left.setdefault(group[i], []).append(i)
    taken = {number: 1 for number in left}
    while sum(taken.values()) < wanted:
        open_ = [g for g in left if taken[g] < min(len(left[g]), 5 * math.ceil(k / 64))]
        if not open_:
            break
        best = max(open_, key=lambda g: (len(left[g]) / (taken[g] + 1), float(attention[left[g][taken[g]]])))
        taken[best] += 1
    kept = [i for g in left for i in left[g][: taken[g]]]
    survivors = [i for i in order if i in left[group[i]] and i not in kept]
    others = [i for i in order if i not in left[group[i]]]
    return (kept + survivors + others)[:wanted]


def pictures(spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two pictures of 100 tokens around a common direction, so that the mean cosine is not zero."""
    torch.manual_seed(seed)
    return torch.randn(2, 1, 48) + spread * torch.randn(2, 100, 48), torch.rand(2, 4, 101).softmax(-1)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("k", [4, 9, 30, 40, 56, 70])
def test_equals_one_token_at_a_time(spread, k):
    tokens, attention = pictures(spread)
    found = make_stage("prunesid", keep=k).reducer.select(tokens, about(tokens, cls_attention=attention), k)
    for image in range(2):
        plain = plainly(tokens[image], attention[image, :, 1:].mean(0), k, k)
        assert sorted(found[image].tolist()) == sorted(plain)


def test_the_released_form_begins_with_the_class_token_and_goes_group_by_group():
    tokens, attention = pictures(1.0)
    row = torch.randn(2, 48)
    evidence = about(tokens, cls_attention=attention, cls_row=row)
    (part,) = choose(make_stage("prunesid", keep=12, mode="code"), tokens, evidence, 12)
    assert torch.equal(part.merged.tokens[:, 0], row)
    for image in range(2):
        origin = part.merged.origin[image].tolist()
        assert sorted(origin[1:]) == sorted(plainly(tokens[image], attention[image, :, 1:].mean(0), 12, 11))
        assert torch.equal(part.merged.tokens[image, 1:], tokens[image, origin[1:]])
        centred = tokens[image].double().sigmoid()
        right = torch.linalg.svd((centred - centred.mean(1, keepdim=True)).T, full_matrices=False).Vh[:3]
        groups = right.abs().argmax(0)[origin[1:]].tolist()
        assert groups == sorted(groups)


def test_of_copies_one_is_kept_though_the_class_token_looks_at_all():
    """Twelve near copies have all the attention, four unlike them little: attention alone would keep copies only."""
    torch.manual_seed(0)
    basis = torch.eye(5, 16)[None]
    copies = torch.nn.functional.pad(1e-3 * torch.rand(1, 12, 11), (5, 0)) + basis[:, :1]
    tokens = torch.cat([copies, basis[:, 1:]], dim=1)
    attention = torch.cat([torch.full((1, 1, 13), 0.07), torch.full((1, 1, 4), 0.02)], dim=-1)
    found = make_stage("prunesid", keep=5).reducer.select(tokens, about(tokens, cls_attention=attention), 5)
    assert sum(index < 12 for index in found[0].tolist()) == 1


def test_who_is_removed_removes_nobody():
    """Each removes the next: the second goes, the third stays since the second is gone."""
    chain = torch.zeros(1, 5, 5, dtype=torch.bool)
    chain[0, range(1, 5), range(4)] = True
    assert suppress(chain).tolist() == [[True, False, True, False, True]]
    assert suppress(chain & False).all()

"""PruMerge against its formulas for one picture at a time, batched, adaptive and with fixed budgets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llava.reduction import make_stage
from llava.reduction.apply import choose
from tests.reduction.methods.golden import about, given_tower


def plain(tokens, attention, keys, stays, neighbours):
    """What the tokens that stay become, by index, and the one more."""
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    alike, rows = unit @ unit.T, {}
    for i in stays:
        others = sorted((j for j in range(len(tokens)) if j != i), key=lambda j: -alike[i, j])[:neighbours]
        rows[i] = tokens[i] + sum(attention[j] * tokens[j] for j in others)
    rest = [j for j in range(len(tokens)) if j not in stays]
    strongest = max(rest, key=lambda j: attention[j])
    rows[strongest] = sum(attention[j] * tokens[j] for j in rest)
    return rows


@pytest.fixture(scope="module")
def pictures():
    torch.manual_seed(0)
    tokens, tower = torch.randn(3, 49, 8), given_tower(3, 49, 8)
    tower.given["cls_projections"] = tuple(3 * part for part in tower.given["cls_projections"])  # some outliers
    query, key = (part.flatten(1).double() for part in tower.given["cls_projections"])
    keys = tower.given["keys"].transpose(1, 2).flatten(2).double()
    logits = torch.einsum("gc,gnc->gn", query, torch.cat([key[:, None], keys], dim=1)) * keys.shape[-1] ** -0.5
    return tokens, tower, logits.softmax(-1)[:, 1:].numpy(), keys.numpy()


def singled_out(attention):
    low, high = np.percentile(attention, [25, 75])
    return max(1, int((attention > high + 1.5 * (high - low)).mean() * len(attention)))


def staying(name, attention, adaptive):
    """Which of 49 tokens stay: the outliers, or 12 of a budget of 13; of the plus form a quarter and others between."""
    order = sorted(range(49), key=lambda j: -attention[j])
    count = singled_out(attention)
    if name == "prumerge":
        return set(order[: count if adaptive else 12])
    if adaptive:
        return set(order[:count]) | set(range(0, 49, max(1, int(49 / count) // 3)))
    free = [j for j in range(49) if j not in order[:3]]
    return set(order[:3]) | {free[n] for n in range(46) if (n + 1) * 9 // 46 > n * 9 // 46}


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_equals_the_formulas(pictures, name, adaptive):
    tokens, tower, attention, keys = pictures
    keep = 49 if adaptive else 13
    stage = make_stage(name, keep=keep, adaptive=adaptive, neighbours=5)
    seen = 0
    for part in choose(stage, tokens, about(tokens, **tower.given), keep):
        for number, image in enumerate(part.rows.tolist()):
            stays = staying(name, attention[image], adaptive)
            expected = plain(tokens[image].double().numpy(), attention[image], keys[image], stays, 5)
            assert part.kept[number].tolist() == sorted(expected)
            for row, token in zip(part.merged.tokens[number], part.kept[number].tolist()):
                np.testing.assert_allclose(row.numpy(), expected[token], atol=1e-4)
            seen += 1
    assert seen == 3

"""ID-Selection against the loop in plain words."""

from __future__ import annotations

import math

import torch

from llava.reduction import make_stage
from llava.reduction.score import similarity
from tests.reduction.methods.golden import about, given_tower


def plain(importance, alike, k, sharpness):
    low, high = min(importance), max(importance)
    left = [(value - low) / (high - low) for value in importance]
    picked = []
    for _ in range(k):
        best = max((j for j in range(len(left)) if j not in picked), key=lambda j: (left[j], -j))
        picked.append(best)
        weight = left[best]
        left = [max(0.0, left[j] - weight * math.exp(-sharpness * (1 - alike[best][j]) ** 2)) for j in range(len(left))]
    return picked


def test_equals_the_plain_loop():
    torch.manual_seed(0)
    tokens, tower = torch.randn(3, 36, 8), given_tower(3, 36, 8)
    for sharpness in (20.0, 2.0):
        reducer = make_stage("id_selection", keep=9, sharpness=sharpness).reducer
        found = reducer.select(tokens, about(tokens, **tower.given), 9)
        scores = tower.given["cls_attention"][..., 1:].mean(1)
        for image in range(3):
            alike = similarity(tokens[image : image + 1])[0].tolist()
            assert found[image].tolist() == plain(scores[image].tolist(), alike, 9, sharpness)


def test_a_copy_of_what_is_kept_is_not_kept_too():
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    attention = torch.tensor([[[0.1, 0.4, 0.35, 0.1, 0.05]]])
    reducer = make_stage("id_selection", keep=2).reducer
    assert reducer.select(tokens, about(tokens, cls_attention=attention), 2).tolist() == [[0, 2]]

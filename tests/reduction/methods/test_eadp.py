"""EADP against the formulas for one picture at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llava.reduction import make_stage
from tests.reduction.methods.golden import about, given_tower


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def plain(patches, end, words, side, k, beta):
    patches, end, words = (unit(part.double().numpy()) for part in (patches, end, words))
    globally, locally = -patches @ end, -words @ patches.T
    heated = np.exp(100 * (locally - locally.max(1, keepdims=True)))
    share = heated / heated.sum(1, keepdims=True)
    entropy = -(share * np.log(np.clip(share, 1e-300, None))).sum(1)
    chosen = np.argsort(entropy, kind="stable")[: max(1, len(words) // 2)]
    weight = np.exp(-(entropy[chosen] - entropy[chosen].min()) / 0.01)
    dense = (weight / weight.sum()) @ locally[chosen]
    score = (globally + dense) / 2
    grid = ((score - score.min()) / (score.max() - score.min())).reshape(side, side)
    line = np.exp(-np.array([1, 0, 1]) / 2)
    kernel = np.outer(line, line) / np.outer(line, line).sum()
    padded = np.pad(grid, 1, mode="reflect")
    smooth = np.array([[(padded[r : r + 3, c : c + 3] * kernel).sum() for c in range(side)] for r in range(side)])
    rows, alike, cover, picked = smooth.ravel() ** beta, (patches @ patches.T + 1) / 2, np.zeros(side * side), []
    for _ in range(k):
        gain = {u: (rows * (np.maximum(alike[u], cover) - cover)).sum() for u in range(side * side) if u not in picked}
        picked.append(max(gain, key=gain.get))
        cover = np.maximum(cover, alike[picked[-1]])
    return picked


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_equals_the_formulas(beta):
    torch.manual_seed(0)
    tokens, tower = torch.randn(2, 25, 8), given_tower(2, 25, 8)
    words, real = tower.given["clip_words"]
    real = real.clone()
    real[1, 3:] = False  # a question of three words
    tower.given["clip_words"] = words, real
    found = make_stage("eadp", keep=7, beta=beta).reducer.select(tokens, about(tokens, **tower.given), 7)
    for image in range(2):
        expected = plain(
            tower.given["clip_patches"][image],
            tower.given["clip_text"][0][image, 0],
            words[image][real[image]],
            5,
            7,
            beta,
        )
        assert found[image].tolist() == expected

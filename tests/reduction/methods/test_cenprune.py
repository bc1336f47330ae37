"""Cen-Prune against the paper's formulas for one picture at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llava.reduction import make_stage, plan_from
from tests.reduction.methods.golden import about, given_tower


def cosines(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def unlike(rows):
    """g: minus the mean cosine to all others, scaled to [0, 1]."""
    alike, count = cosines(rows), len(rows)
    mean = np.array([-sum(alike[i, j] for j in range(count) if j != i) / (count - 1) for i in range(count)])
    return (mean - mean.min()) / (mean.max() - mean.min())


def test_the_divprune_form():
    torch.manual_seed(0)
    tokens = torch.randn(2, 25, 8) + 2
    found = make_stage("cenprune", keep=7, base="divprune").reducer.select(tokens, about(tokens), 7)
    for image in range(2):
        rows = tokens[image].double().numpy()
        far, weight = 1 - cosines(rows - rows.mean(0)), unlike(rows)
        picked = [int(np.argmax([np.sort(far[i])[1] for i in range(25)]))]
        while len(picked) < 7:
            score = {i: weight[i] * min(far[i, j] for j in picked) for i in range(25) if i not in picked}
            picked.append(max(score, key=score.get))
        assert found[image].tolist() == picked


def test_the_cdpruner_form():
    torch.manual_seed(1)
    tokens, tower = torch.randn(2, 25, 8) + 2, given_tower(2, 25, 8)
    found = make_stage("cenprune", keep=6).reducer.select(tokens, about(tokens, **tower.given), 6)
    for image in range(2):
        rows = tokens[image].double().numpy()
        patches, text = (
            tower.given["clip_patches"][image].double().numpy(),
            tower.given["clip_text"][0][image, 0].double().numpy(),
        )
        near = -(patches @ text) / np.linalg.norm(patches, axis=1) / np.linalg.norm(text)
        quality = (near - near.min() + 1e-6) / (near.max() - near.min()) * unlike(rows)
        kernel, picked = quality[:, None] * cosines(rows - rows.mean(0)) * quality, []
        while len(picked) < 6:
            volume = {
                i: np.linalg.slogdet(kernel[np.ix_([*picked, i], [*picked, i])])[1]
                for i in range(25)
                if i not in picked
            }
            picked.append(max(volume, key=volume.get))
        assert found[image].tolist() == picked


def test_it_is_the_selectors_option():
    torch.manual_seed(2)
    tokens, tower = torch.randn(2, 25, 8), given_tower(2, 25, 8)
    for base in ("divprune", "cdpruner"):
        evidence = about(tokens, **tower.given)
        own = make_stage("cenprune", keep=6, base=base).reducer.select(tokens, evidence, 6)
        assert torch.equal(own, make_stage(base, keep=6, centred=True).reducer.select(tokens, evidence, 6))


def test_a_base_that_reads_no_question_refuses_one():
    with pytest.raises(ValueError, match="base='divprune' reads no question"):
        plan_from("cenprune:64,base=divprune,relevance=embeddings")

"""TOPS against the loop in plain words, before the decoder and in it."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import make_stage, plan_from, reduced, spelled_out
from llava.reduction.score import similarity
from tests.reduction.methods.golden import about, given_tower
from tests.tiny import prompt, tiny_model


def plain(relevance, alike, k, alpha, coverage):
    count = len(relevance)
    kept = [max(range(count), key=lambda i: (relevance[i], -i))]
    while len(kept) < k:
        near = [max(alike[j][s] for s in kept) for j in range(count)]
        left = [i for i in range(count) if i not in kept]
        stands = {i: sum(max(0.0, alike[j][i] - near[j]) for j in left) for i in left}
        mean = [
            sum(values) / len(left)
            for values in ([relevance[i] for i in left], [1 - near[i] for i in left], stands.values())
        ]
        score = {
            i: relevance[i] / max(mean[0], 1e-6)
            + alpha * (1 - near[i]) / max(mean[1], 1e-6)
            + coverage * stands[i] / max(mean[2], 1e-6)
            for i in left
        }
        kept.append(max(left, key=lambda i: (score[i], -i)))
    return kept


@pytest.mark.parametrize(("alpha", "coverage"), [(0.5, 0.5), (0.5, 1.0), (2.0, 0.0)])
def test_equals_the_plain_loop(alpha, coverage):
    torch.manual_seed(0)
    tokens, tower = torch.randn(2, 25, 6), given_tower(2, 25, 6)
    stage = make_stage("tops", site="projected", keep=8, alpha=alpha, coverage=coverage)
    found = stage.reducer.select(tokens, about(tokens, **tower.given), 8)
    for image in range(2):
        relevance = tower.given["cls_attention"][image, :, 1:].mean(0).double().tolist()
        alike = similarity(tokens[image : image + 1])[0].double().tolist()
        assert found[image].tolist() == plain(relevance, alike, 8, alpha, coverage)


def test_the_name_is_the_papers_plan():
    assert [str(stage) for stage in spelled_out(plan_from("tops:64"), 32)] == [
        "tops@projected:128,coverage=1.0", "tops@12:64,coverage=1.0", "tops@24:16,coverage=1.0"
    ]  # fmt: skip
    assert [stage.keep for stage in spelled_out(plan_from("tops"), 32)] == [256, 128, 32]


def test_in_the_decoder_words_judge():
    model, batch = tiny_model(), prompt((5, 24, 9), (3, 24, 4))
    with torch.no_grad(), reduced(model, "tops@2:6"):
        model(**batch.inputs)
    assert model.model.last_trace[0].after.tolist() == [6, 6]

"""What document 000 lists: similarity matrix, both strategies, aggregation, the whole flow, CUDA when present."""

from __future__ import annotations

import pytest
import torch

from llava.model.language_model.token_condensation import TokenCondensation, TokenCondensationIntegrated

FEATURES = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["fps", "connectivity"])
def module(request):
    return TokenCondensation(32, num_heads=4, selection_strategy=request.param)


def test_similarity_matrix():
    alike = TokenCondensation(32).compute_similarity_matrix(FEATURES)
    assert alike.shape == (2, 40, 40)
    torch.testing.assert_close(alike.diagonal(dim1=1, dim2=2), torch.ones(2, 40))
    torch.testing.assert_close(alike, alike.transpose(1, 2))
    expected = torch.cosine_similarity(FEATURES[0, 3], FEATURES[0, 7], dim=0)
    torch.testing.assert_close(alike[0, 3, 7], expected)


def test_fps_spreads_more_than_connectivity():
    module = TokenCondensation(32)
    alike = module.compute_similarity_matrix(FEATURES)
    chosen = {
        "fps": module.select_centroids_fps(FEATURES, alike, 8),
        "connectivity": module.select_centroids_connectivity(alike, 8),
    }
    inside = {
        name: torch.stack([alike[row][index][:, index].sum() for row, index in enumerate(picked)])
        for name, picked in chosen.items()
    }
    assert (inside["fps"] < inside["connectivity"]).all()
    degree = alike.sum(-1)
    assert torch.equal(chosen["connectivity"][:, 0], degree.argmax(1))


def test_aggregation_is_attention_scaled_by_the_width_of_a_head():
    module = TokenCondensation(32, num_heads=4)
    query = FEATURES[:, :5]
    out = module.cross_attention_aggregation(query, FEATURES, FEATURES)
    assert out.shape == (2, 5, 32)
    unit = FEATURES[0] / FEATURES[0].square().mean(-1, keepdim=True).sqrt()
    head = slice(8, 16)
    weight = (unit[:5, head] @ unit[:, head].T / 8**0.5).softmax(-1)
    torch.testing.assert_close(out[0, :, head], weight @ FEATURES[0, :, head], rtol=1e-4, atol=1e-5)


def test_the_whole_flow(module):
    condensed, kept = module(FEATURES, 10)
    assert condensed.shape == (2, 10, 32) and kept.shape == (2, 10)
    assert (kept.diff(dim=1) > 0).all()
    alone, alone_kept = module(FEATURES[1:], 10)
    assert torch.equal(alone_kept[0], kept[1])
    torch.testing.assert_close(alone[0], condensed[1])
    condensed.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("number", [40, 41, 1000])
def test_as_many_centroids_as_tokens_change_nothing(module, number):
    condensed, kept = module(FEATURES, number)
    assert torch.equal(condensed, FEATURES) and kept.tolist() == [list(range(40))] * 2


def test_prefix_and_suffix_are_untouched_and_rows_keep_their_places():
    integrated = TokenCondensationIntegrated(32, num_heads=4)
    shorter, kept = integrated(FEATURES, 5, 30, 6)
    assert shorter.shape == (2, 21, 32) and kept.shape == (2, 21)
    assert torch.equal(shorter[:, :5], FEATURES[:, :5]) and torch.equal(shorter[:, 11:], FEATURES[:, 30:])
    assert kept[:, :5].tolist() == [list(range(5))] * 2 and kept[:, 11:].tolist() == [list(range(30, 40))] * 2
    assert ((kept[:, 5:11] >= 5) & (kept[:, 5:11] < 30)).all() and (kept.diff(dim=1) > 0).all()
    condensed, inside = integrated.condensation_module(FEATURES[:, 5:30], 6)
    assert torch.equal(shorter[:, 5:11], condensed) and torch.equal(kept[:, 5:11], inside + 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenCondensation(32, selection_strategy="kmeans"), "selection_strategy='kmeans' is unknown"),
        (lambda: TokenCondensation(32, num_heads=5), "num_heads=5 must be a whole number that divides the width 32"),
        (lambda: TokenCondensation(32)(FEATURES, 0), "num_centroids=0"),
        (lambda: TokenCondensation(32)(FEATURES, 2.5), "num_centroids=2.5"),
        (lambda: TokenCondensationIntegrated(32)(FEATURES, 30, 50, 4), "vision_token_end=50 is no span of the 40"),
        (lambda: TokenCondensationIntegrated(32)(FEATURES, 9, 9, 4), "vision_token_start=9"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(module):
    expected, kept = module(FEATURES, 10)
    actual, kept_there = module.cuda()(FEATURES.cuda(), 10)
    assert torch.equal(kept_there.cpu(), kept)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__]))

"""Aggregators against loops: convex mixtures, identity starts, heads."""

from __future__ import annotations

import pytest
import torch

from llava.reduction.aggregate import CrossAttention, cosine_attention, gather, head_attention, normalise

TOKENS = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
KEPT = torch.tensor([[1, 5, 9], [0, 2, 11]])


def test_cosine_attention_equals_a_loop():
    actual = cosine_attention(TOKENS, KEPT, 0.1)
    for image in range(2):
        for place, token in enumerate(KEPT[image]):
            near = torch.cosine_similarity(TOKENS[image, token][None], TOKENS[image], dim=-1)
            torch.testing.assert_close(actual[image, place], (near / 0.1).softmax(0) @ TOKENS[image])


def test_a_low_temperature_gathers_and_a_high_one_averages():
    torch.testing.assert_close(cosine_attention(TOKENS, KEPT, 1e-4), gather(TOKENS, KEPT))
    mean = TOKENS.mean(1, keepdim=True).expand(-1, 3, -1)
    torch.testing.assert_close(cosine_attention(TOKENS, KEPT, 1e6), mean, rtol=0, atol=1e-4)


def test_head_attention_equals_torchs_own():
    reference = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.eye(8).repeat(3, 1))
        reference.out_proj.weight.copy_(torch.eye(8))
    centres = gather(TOKENS, KEPT)
    torch.testing.assert_close(head_attention(centres, TOKENS, TOKENS, 2), reference(centres, TOKENS, TOKENS)[0])


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_untrained_cross_attention_mixes_real_tokens_head_by_head(heads):
    mixed = CrossAttention(8, heads)(gather(TOKENS, KEPT), TOKENS, TOKENS)
    free = head_attention(normalise(gather(TOKENS, KEPT)), normalise(TOKENS), TOKENS, heads)
    torch.testing.assert_close(mixed, free)
    low, high = TOKENS.amin(1, keepdim=True), TOKENS.amax(1, keepdim=True)
    assert ((mixed >= low - 1e-6) & (mixed <= high + 1e-6)).all()


def test_mixing_is_the_same_whatever_the_scale_of_the_tokens():
    attention = CrossAttention(8, 2)
    once = attention(gather(TOKENS, KEPT), TOKENS, TOKENS)
    torch.testing.assert_close(attention(gather(TOKENS * 50, KEPT), TOKENS * 50, TOKENS * 50) / 50, once)


@pytest.mark.parametrize("heads", [0, 3, True, 2.0])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(ValueError, match="num_heads=.* divides the width 8"):
        CrossAttention(8, heads)

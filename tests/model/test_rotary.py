"""A cast after loading does what loading in that type does."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_model

from llava.model.rotary import ExactRotaryEmbedding


@pytest.mark.parametrize(
    "cast",
    [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double(), lambda m: m.to("cpu", torch.float16)],
)
def test_a_cast_model_turns_positions_as_before(cast):
    model = tiny_model()
    exact, table = model.model.rotary_emb.inv_freq.clone(), model.model.rotary_emb
    assert isinstance(table, ExactRotaryEmbedding)
    model = cast(copy.deepcopy(model))
    for name in ("inv_freq", "original_inv_freq"):
        assert torch.equal(getattr(model.model.rotary_emb, name), exact), name
    positions = torch.arange(500)[None]
    like = torch.zeros(1, dtype=model.dtype)
    for ours, wanted in zip(model.model.rotary_emb(like, positions), table(like, positions)):
        assert ours.dtype == model.dtype and torch.equal(ours, wanted)


def test_it_follows_the_model_to_another_device():
    model = tiny_model()
    model.to(device="meta")
    assert model.model.rotary_emb.inv_freq.is_meta


def test_cast_and_loaded_are_the_same(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    ids = torch.arange(60)[None] % 97
    with torch.no_grad():
        assert torch.equal(model.to(torch.bfloat16)(ids).logits, loaded(ids).logits)

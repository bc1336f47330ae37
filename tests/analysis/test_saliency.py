"""Saliency against the authors' own construction: a leaf of ones that multiplies the attention."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llava.analysis.observe import GROUPS, token_groups
from llava.analysis.saliency import Asked, Salience, props, saliency, target_id
from llava.eval.ask.subject import Generation
from llava.reduction import plan_from, reduced
from tests.conftest import PARITY15
from tests.tiny import LAYERS, prompt, tiny_model


def by_multipliers(model, inputs: dict, target: int, monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Attention A and A * dL/dA of every layer, the latter as the gradient of a leaf of ones."""
    held = []

    def multiplied(module, query, key, value, mask, scaling, dropout=0.0, **_):
        keys, values = (part.repeat_interleave(module.num_key_value_groups, dim=1) for part in (key, value))
        weights = (query @ keys.transpose(2, 3) * scaling + mask).softmax(-1)
        ones = torch.ones_like(weights, requires_grad=True)
        held.append((weights.detach(), ones))
        return (weights * ones @ values).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "eager", multiplied)
    model.config._attn_implementation = "eager"
    logits = model(**inputs, use_cache=False).logits[:, -1]
    F.cross_entropy(logits, torch.tensor([target])).backward()
    return [(weights[0], ones.grad[0]) for weights, ones in held]


@pytest.mark.parametrize("plan", ["full", "fastv@3:6"])
def test_both_variants_are_the_leaf_of_ones(plan, monkeypatch):
    """``intended`` is the leaf's gradient, ``squared`` that times A, both absolute, head mean, summed over blocks."""
    model, batch, target = tiny_model(), prompt((5, 16, 7)), 11
    with reduced(model, plan):
        found = saliency(model, batch.inputs, target)
        ledgers = model.model.last_ledgers
        with monkeypatch.context() as patch:
            expected = by_multipliers(model, batch.inputs, target, patch)
    assert found.shape == (LAYERS, 2, 4, 4)
    for layer, (weights, gradient) in enumerate(expected):
        columns = token_groups(ledgers[layer], 0)
        for variant, entries in enumerate((gradient.abs().mean(0), (weights * gradient).abs().mean(0))):
            blocks = [[entries[columns[rows]][:, columns[keys]].sum() for keys in GROUPS] for rows in GROUPS]
            assert found[layer, variant] == pytest.approx(np.array(blocks), rel=1e-4, abs=1e-9)
    assert found[:, 0].max() > 0


def test_nothing_is_left_behind():
    model, batch = tiny_model(), prompt((5, 16, 7))
    before, asked = model.config._attn_implementation, [one.requires_grad for one in model.parameters()]

    def tensors() -> int:
        gc.collect()
        return sum(torch.is_tensor(one) for one in gc.get_objects())

    saliency(model, batch.inputs, 3)
    held = tensors()
    for _ in range(3):
        saliency(model, batch.inputs, 3)
    assert tensors() <= held  # fewer where something older was let go meanwhile
    assert model.config._attn_implementation == before
    assert [one.requires_grad for one in model.parameters()] == asked
    assert all(one.grad is None for one in model.parameters())
    assert not any(layer.self_attn._forward_hooks for layer in model.model.layers)


def test_the_target_is_the_token_the_template_goes_on_with(llava15):
    """After "ASSISTANT:" the answer is the token with a blank; after a line break the one without."""
    tokenizer = llava15.tokenizer
    blank, bare = (
        tokenizer.convert_ids_to_tokens([target_id(tokenizer, mode, "Is it?", "Yes")])[0]
        for mode in ("vicuna_v1", "chatml_direct")
    )
    assert blank == "▁" + bare or blank.startswith("▁")
    assert not bare.startswith("▁")
    with pytest.raises(ValueError, match="the answer '' has no first token of its own"):
        target_id(tokenizer, "vicuna_v1", "Is it?", "")


def test_props_by_hand():
    """Rows: 1 BOS, 1 system, 2 picture, 4 words. Sums by rows 1 + 2, 7, 12; in the picture's columns 4 and 5."""
    sums = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [2, 1, 4, 0], [3, 2, 5, 2]], dtype=float)
    every, picture = props(sums, np.array([1, 1, 2, 4]))
    assert every == pytest.approx([1.5, 3.5, 3]) and picture == pytest.approx([4, 5])


def test_a_reply_is_measured_under_its_plan(subject):
    features = subject.encode([Image.open(PARITY15 / "image0.png").convert("RGB")])
    asked = Asked.of("Is there a dog?", "Yes")
    (reply,) = Salience(subject).answer([asked], features, plan_from("random@4:9"), Generation(1))
    assert [rows[2] for _, rows in reply.layers] == [576] * 4 + [9] * 4
    assert reply.layers[0][0].sum() > 0 and len(reply.layers) == 8


def test_command_line(analyse, tmp_path):
    assert analyse("saliency", "--output-dir", "out", "--result-file", "deep/found.pt") == 0
    held = json.loads((tmp_path / "out" / "saliency.json").read_text())
    for variant in ("intended", "squared"):
        assert sum(held[variant]["flow_ratio"]["img2txt"]) == pytest.approx(1, abs=1e-4)
        assert len(held[variant]["props_all"]["text"]) == 8
    found = torch.load(tmp_path / "deep" / "found.pt", weights_only=False)
    assert [one["props_all"].shape for one in found] == [(8, 3)] * 2 and found[0]["props_img"].shape == (8, 2)
    mean = sum(one["props_img"][:, 1] for one in found) / 2
    assert held["intended"]["props_img"]["img2txt"] == pytest.approx(mean.tolist(), rel=1e-3)
    assert (tmp_path / "out" / "saliency.png").is_file()

"""Attention rows against the eager attention map."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import attention_rows
from llava.reduction.evidence import layer_keys
from tests.tiny import prompt, tiny_model


@pytest.mark.parametrize("cached", [True, False])
def test_rows_equal_the_eager_map(cached):
    model, batch = tiny_model(), prompt((5, 24, 9), (3, 16, 6))
    model.set_attn_implementation("eager")
    entered = {}
    model.model.layers[2].register_forward_pre_hook(
        lambda module, args, kwargs: entered.update(kwargs, hidden=args[0]), with_kwargs=True
    )
    with torch.no_grad():
        out = model(**batch.inputs, use_cache=True, output_attentions=True)
        rows = torch.tensor([[37, 20], [37, 30]])
        layer, rope = model.model.layers[2], [part.expand(2, -1, -1) for part in entered["position_embeddings"]]
        again = layer_keys(layer, entered["hidden"], rope)
        keys = out.past_key_values.layers[2].keys if cached else again
        actual = attention_rows(layer, entered["hidden"], rope, rows, batch.attention_mask.bool(), keys)
    expected = torch.stack([out.attentions[2][row][:, rows[row]] for row in range(2)])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    assert actual.shape == (2, 4, 2, 38)

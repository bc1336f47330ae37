"""A token that stands for several weighs as they would: the log of its size on its key is that many copies of it."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import Merged, Reducer, Stage, reduced
from tests.tiny import prompt, tiny_model


class Sized(Reducer):
    """Keep the first k tokens, in falling order, each with a size of its own."""

    name, merges, sites = "sized", True, ("layer",)

    def select(self, tokens, evidence, k):
        return torch.arange(k).expand(len(tokens), -1)

    def aggregate(self, tokens, kept, evidence):
        turned = kept.flip(1)
        return Merged(tokens.gather(1, turned[..., None].expand(-1, -1, tokens.shape[-1])), turned, turned + 1.0)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_size_is_as_many_copies_at_one_position(model, attention):
    """Of equal tokens at one position that see only what is before them, one with their number does the same."""
    model.set_attn_implementation(attention)
    torch.manual_seed(0)
    text, token = torch.randn(1, 4, 64), torch.randn(1, 1, 64)
    copies = torch.cat([text, token.expand(-1, 3, -1), text.flip(1)], dim=1)
    positions = torch.tensor([[0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8]])
    mask = torch.ones(1, 1, 11, 11).tril().bool()
    mask[..., 4:7, 4:7] = torch.eye(3, dtype=torch.bool)  # a copy does not see the others
    dense = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    short = torch.cat([text, token, text.flip(1)], dim=1)
    sizes = torch.tensor([[1.0] * 4 + [3.0] + [1.0] * 4])
    one = torch.cat([positions[:, :5], positions[:, 7:]], dim=1)
    with torch.no_grad():
        hidden, layer, rotary = copies, model.model.layers[0], model.model.rotary_emb
        hidden = layer(hidden, attention_mask=dense, position_embeddings=rotary(hidden, position_ids=positions))
        visual = (sizes > 1).long()
        entered = {}
        handle = model.model.layers[1].register_forward_pre_hook(lambda module, args: entered.update(hidden=args[0]))
        model(inputs_embeds=short, position_ids=one, visual=visual, token_size=sizes)
        handle.remove()
    torch.testing.assert_close(entered["hidden"][:, 5:], hidden[:, 7:], rtol=0, atol=1e-5)
    # the merged token itself sees three of itself, a copy but one
    assert not torch.allclose(entered["hidden"][:, 4], hidden[:, 4])
    model.set_attn_implementation("sdpa")


def test_cached_decoding_with_sizes_equals_recomputing_and_a_batch_each_row_alone(model):
    batch = prompt((5, 24, 9), (3, 16, 6))
    plan = [Stage(Sized(), "layer", 2, 5)]
    with torch.no_grad(), reduced(model, plan):
        out = model(**batch.inputs, use_cache=True)
        following = out.logits[:, -1:].argmax(-1)
        cached = model(input_ids=following, past_key_values=out.past_key_values, attention_mask=None).logits[:, -1]
        whole = torch.cat([batch.inputs_embeds, model.model.embed_tokens(following)], dim=1)
        mask = torch.cat([batch.attention_mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        again = model(
            inputs_embeds=whole, attention_mask=mask, position_ids=position_ids, visual=batch.visual, use_cache=False
        ).logits[:, -1]
        alone = [model(**batch.row(row).inputs).logits[0, -1] for row in range(2)]
        without = model(**batch.inputs).logits[:, -1]
    torch.testing.assert_close(torch.stack(alone), out.logits[:, -1], rtol=0, atol=2e-5)
    assert torch.equal(without, out.logits[:, -1])
    torch.testing.assert_close(cached[:1], again[:1], rtol=0, atol=2e-5)


def test_rows_in_another_order_keep_the_positions_of_what_they_stand_for(model):
    """A rearranged sequence whose tokens keep positions and mutual visibility would be the same; here the order shows."""
    batch = prompt((5, 24, 9))
    with torch.no_grad(), reduced(model, [Stage(Sized(), "layer", 2, 5)]):
        model(**batch.inputs)
    ledger = model.model.last_ledgers[-1]
    image = ledger.visual[0] == 1
    assert ledger.origin[0][image].tolist() == [9, 8, 7, 6, 5] == ledger.position[0][image].tolist()
    assert ledger.size[0][image].tolist() == [5, 4, 3, 2, 1] and ledger.size[0][~image].eq(1).all()


def test_a_backend_that_takes_no_numbers_in_its_mask_is_refused(model):
    batch = prompt((5, 24, 9))
    model.config._attn_implementation = "flash_attention_2"
    try:
        with pytest.raises(ValueError, match="cannot weigh merged tokens by their sizes"):
            model(**batch.inputs, token_size=torch.full((1, 38), 2.0))
    finally:
        model.config._attn_implementation = "sdpa"

"""What the one forward promises beyond the conformance suite."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import reduced
from tests.tiny import generate, prompt, tiny_model

PLAN = "fastv@2:7+random@4:3"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_the_cache_keeps_what_each_layer_saw(model):
    batch = prompt((5, 24, 9))
    with reduced(model, PLAN):
        out = generate(model, batch, steps=4, return_dict_in_generate=True)
    lengths = [out.past_key_values.get_seq_length(layer) for layer in range(6)]
    assert lengths == [38 + 3, 38 + 3, 21 + 3, 21 + 3, 17 + 3, 17 + 3]


def test_a_second_turn_on_the_same_cache_equals_recomputing(model):
    batch = prompt((5, 24, 9))
    torch.manual_seed(5)
    more = torch.randint(3, 90, (1, 6))
    with torch.no_grad(), reduced(model, PLAN):
        cache = model(**batch.inputs, use_cache=True).past_key_values
        actual = model(input_ids=more, past_key_values=cache).logits
        whole = torch.cat([batch.inputs_embeds, model.model.embed_tokens(more)], dim=1)
        expected = model(
            inputs_embeds=whole, visual=batch.visual, sample_seed=batch.sample_seed, use_cache=False
        ).logits
    torch.testing.assert_close(actual, expected[:, -6:], rtol=0, atol=2e-5)


def test_static_cache_gives_the_same_tokens(model):
    batch = prompt((5, 24, 9), (3, 16, 6))
    with reduced(model, PLAN.replace(":7", ":0.3").replace(":3", ":0.5")):
        expected = generate(model, batch)
        actual = generate(model, batch, cache_implementation="static", disable_compile=True)
    assert torch.equal(actual, expected)


def test_prompt_lookup_decoding_gives_the_same_tokens(model):
    batch = prompt((5, 24, 9))
    ids = torch.randint(3, 90, (1, 38))
    visual, options = batch.visual, {"max_new_tokens": 8, "do_sample": False}
    with reduced(model, PLAN):
        expected = model.generate(input_ids=ids, visual=visual, **options)
        actual = model.generate(input_ids=ids, visual=visual, prompt_lookup_num_tokens=3, **options)
    assert torch.equal(actual, expected)


def test_a_prompt_in_pieces_is_refused(model):
    batch = prompt((5, 24, 9))
    with reduced(model, PLAN), torch.no_grad():
        with pytest.raises(ValueError, match="one entry per prompt token"):
            model(inputs_embeds=batch.inputs_embeds[:, :20], visual=batch.visual)
        cache = model(inputs_embeds=batch.inputs_embeds[:, :5], use_cache=True).past_key_values
        with pytest.raises(ValueError, match="arrives in pieces"):
            model(inputs_embeds=batch.inputs_embeds[:, 5:], visual=batch.visual, past_key_values=cache)


def test_wrong_inputs_are_named(model):
    batch = prompt((5, 24, 9))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model.model()
    with pytest.raises(ValueError, match="sample_seed has 3 entries for a batch of 1"):
        model(**{**batch.inputs, "sample_seed": torch.arange(3)})
    with reduced(model, "fastv@6:3"), pytest.raises(ValueError, match="layers 1..5"):
        model(**batch.inputs)
    with reduced(model, "pool:4"), pytest.raises(ValueError, match="a decoder alone"):
        model(**batch.inputs)
    with reduced(model, "fastv@2:25"), pytest.raises(ValueError, match="exceeds the 24 image tokens"):
        model(**batch.inputs)


def test_reduced_restores_even_after_an_error_and_nests(model):
    with pytest.raises(RuntimeError), reduced(model, "random@2:3"):
        raise RuntimeError
    assert model.model.plan_override is None
    with reduced(model, "random@2:3"):
        with reduced(model, "full"):
            assert [stage.name for stage in model.model.plan_override] == ["full"]
        assert [stage.name for stage in model.model.plan_override] == ["random"]


def test_zero_fill_keeps_the_length_and_puts_the_kept_first(model):
    batch = prompt((5, 24, 9))
    entered = {}
    handle = model.model.layers[2].register_forward_pre_hook(lambda module, args: entered.update(hidden=args[0]))
    with torch.no_grad(), reduced(model, "random@2:7,place=zero_fill"):
        model(**batch.inputs)
        filled = entered["hidden"][0]
    with torch.no_grad(), reduced(model, "random@2:7"):
        model(**batch.inputs)
    handle.remove()
    dropped = entered["hidden"][0]
    assert len(filled) == 38 and filled[12:29].eq(0).all()
    assert torch.equal(filled[5:12], dropped[5:12]) and torch.equal(filled[29:], dropped[12:])


def test_hidden_states_of_a_reduced_run_are_ragged_and_all_there(model):
    batch = prompt((5, 24, 9))
    with torch.no_grad(), reduced(model, PLAN):
        out = model(**batch.inputs, output_hidden_states=True)
    assert [state.shape[1] for state in out.hidden_states] == [38, 38, 38, 21, 21, 17, 17]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant):
    batch, grads = prompt((5, 24, 9)), []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        batch.inputs_embeds = batch.inputs_embeds.detach().requires_grad_()
        with reduced(model, PLAN):
            model(**batch.inputs, use_cache=False).logits[:, -1].square().sum().backward()
        grads.append(model.model.layers[1].mlp.up_proj.weight.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-6)

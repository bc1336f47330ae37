"""The engine on tiny decoders: contexts, calls, caches, positions, several families."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model
from transformers.cache_utils import DynamicCache

from llava.model.engine import CACHE
from llava.model.hosts.decoder import ReducibleCausalLM, ReducibleDecoder
from llava.reduction import Ledger, attention_rows, reduced
from llava.reduction.evidence import layer_keys
from tests.tiny import LAYERS, MIXED, VOCABULARY, WIDTH, generate, prompt, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def logits(model, batch, plan, **options):
    with torch.no_grad(), reduced(model, plan):
        return model(**batch.inputs, **options).logits[:, -1]


# ------------------------------------------------------------------------------------------------- contexts and calls


def test_threads_have_plans_and_traces_of_their_own(model):
    batch, plans = prompt((5, 24, 9)), ["", "fastv@2:7", "random@1:5", "blind@3"]
    expected = [logits(model, batch, plan) for plan in plans]
    barrier = threading.Barrier(len(plans))

    def user(number: int) -> bool:
        barrier.wait()
        for _ in range(6):
            if not torch.equal(logits(model, batch, plans[number]), expected[number]):
                return False
            if [str(record.stage) for record in model.model.last_trace] != [plans[number]] * bool(plans[number]):
                return False
        return True

    with ThreadPoolExecutor(len(plans)) as pool:
        assert all(pool.map(user, range(len(plans))))
    assert model.model.plan_override is None


def test_a_thread_outside_the_block_runs_dense_and_says_so_once(caplog):
    model, batch = tiny_model(), prompt((5, 24, 9))
    dense, reduced_logits = logits(model, batch, ""), logits(model, batch, "fastv@2:7")

    def run():
        with torch.no_grad():
            return model(**batch.inputs).logits[:, -1]

    with reduced(model, "fastv@2:7"), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(run).result(), dense)
        assert torch.equal(pool.submit(run).result(), dense)
        assert torch.equal(pool.submit(copy_context().run, run).result(), reduced_logits)
    assert caplog.text.count("copy_context") == 1


def test_the_plan_of_a_call_stands_above_block_and_config(model):
    batch = prompt((5, 24, 9))
    expected = logits(model, batch, "fastv@2:7")
    with torch.no_grad(), reduced(model, "blind@2"):
        assert torch.equal(model(**batch.inputs, reduction="fastv@2:7").logits[:, -1], expected)
        called = generate(model, batch, reduction="fastv@2:7")
    with reduced(model, "fastv@2:7"):
        assert torch.equal(called, generate(model, batch))


def test_blocks_of_two_models_may_end_in_any_order():
    first, second = tiny_model(), tiny_model(seed=1)
    outer, inner = reduced(first, "blind@2"), reduced(second, "blind@3")
    outer.__enter__(), inner.__enter__()
    outer.__exit__(None, None, None)
    assert first.model.plan_override is None and str(second.model.plan_override[0]) == "blind@3"
    inner.__exit__(None, None, None)
    assert second.model.plan_override is None


def test_copies_and_pickles_leave_the_plan_behind(model):
    batch = prompt((5, 24, 9))
    dense = logits(model, batch, "")
    with reduced(model, "fastv@2:7"), torch.no_grad():
        model(**batch.inputs)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(**batch.inputs).logits[:, -1], dense)


# ------------------------------------------------------------------------------------------------------------ keywords


@pytest.mark.parametrize("keyword", ["fast_v_attention_rank", "pastkey_values", "image_seed", "visuals"])
def test_unknown_keywords_are_refused_with_a_near_name(model, keyword):
    batch = prompt((5, 24, 9))
    for call in (model, model.model):
        with pytest.raises(ValueError, match=f"forward does not know {keyword}"):
            call(**batch.inputs, **{keyword: 3})
    with pytest.raises(ValueError, match="did you mean"):
        model(**batch.inputs, atention_mask=None)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_both_names_of_the_cache_decode_the_same(model, name):
    batch, new = prompt((5, 24, 9)), torch.tensor([[7]])
    with torch.no_grad(), reduced(model, "fastv@2:7"):
        cache = DynamicCache(config=model.config)
        output = model(**batch.inputs, **{name: cache}, use_cache=True)
        assert output[CACHE] is cache and cache.get_seq_length() == 38 and cache.get_seq_length(3) == 21
        step = model(input_ids=new, **{name: cache}).logits[:, -1]
        whole = torch.cat([batch.inputs_embeds, model.model.embed_tokens(new)], dim=1)
        again = model(inputs_embeds=whole, visual=batch.visual, sample_seed=batch.sample_seed, use_cache=False)
    torch.testing.assert_close(step, again.logits[:, -1], rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(input_ids=new, cache=cache, past_key_values=DynamicCache(config=model.config))


def test_attention_weights_come_under_every_attention(model):
    """sdpa returns no weights: such a call is computed by the eager attention, and nothing else changes."""
    batch = prompt((5, 24, 9), (3, 16, 6))
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad(), reduced(model, "fastv@2:7"):
        plain = model(**batch.inputs).logits
        asked = model(**batch.inputs, output_attentions=True)
        tokens = generate(model, batch, output_attentions=True, return_dict_in_generate=True)
        assert torch.equal(tokens.sequences, generate(model, batch))
    assert [weights.shape[-1] for weights in asked.attentions] == [38, 38, 21, 21, 21, 21]
    assert len(tokens.attentions[0]) == LAYERS and model.config._attn_implementation == "sdpa"
    sums = asked.attentions[3][batch.attention_mask.bool().sum(1).argmax()].sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    torch.testing.assert_close(asked.logits[:, -1], plain[:, -1], rtol=0, atol=2e-5)
    with torch.no_grad():
        assert torch.equal(model(**batch.inputs).logits, model(**batch.inputs).logits)


# --------------------------------------------------------------------------------------------------------------- draws


def test_two_pictures_of_one_prompt_draw_differently(model):
    batch = prompt((5, 24, 4, 24, 6))
    logits(model, batch, "random@2:7")
    chosen = model.model.last_trace[0].kept_origins(0, text=False)
    first, second = chosen[:7] - 5, chosen[7:] - 33
    assert not torch.equal(first, second)


# ------------------------------------------------------------------------------------------------- positions and caches


def recomputed(model, batch, generated):
    """Greedy tokens of the same prompt without a cache, each step from scratch."""
    embeds, mask, tokens = batch.inputs_embeds, batch.attention_mask, []
    for step in range(generated.shape[1]):
        output = model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            visual=batch.visual,
            sample_seed=batch.sample_seed,
            use_cache=False,
        )
        tokens.append(output.logits[:, -1].argmax(-1))
        embeds = torch.cat([embeds, model.model.embed_tokens(generated[:, step : step + 1])], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.stack(tokens, dim=1)


PLACES = ["drop", "mask", "zero_fill", "compact"]


@pytest.mark.parametrize("second", PLACES)
@pytest.mark.parametrize("first", PLACES)
def test_two_stages_of_any_placements_decode_as_recomputed(model, first, second):
    """Of compact stages both shifts count; what was masked stays a row when a later stage drops."""
    word = {place: "positions=compact" if place == "compact" else f"place={place}" for place in PLACES}
    plan = f"random@1:9,{word[first]}+random@3:4,{word[second]}"
    batch = prompt(*MIXED)
    with torch.no_grad(), reduced(model, plan):
        generated = generate(model, batch)
        rows = model.model.last_rows_per_layer[:, 0].tolist()
        assert torch.equal(generated, recomputed(model, batch, generated))
    seen = 24 if first == "zero_fill" else 9
    after_first = 38 if first in ("mask", "zero_fill") else 38 - 24 + 9
    after_second = after_first if second in ("mask", "zero_fill") else after_first - seen + 4
    assert [rows[0], rows[1], rows[3]] == [38, after_first, after_second]


@pytest.mark.parametrize("begins", [0, 3])
def test_compact_positions_count_from_the_first_position(begins):
    positions = torch.arange(8)[None] + begins
    ledger = Ledger.start(torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0]]), torch.ones(1, 8, dtype=torch.bool), positions)
    _, left = ledger.without(torch.tensor([[0, 0, 1, 0, 1, 0, 0, 0]]).bool(), shorten=True)
    assert left.compacted().position.tolist() == [[begins + number for number in range(6)]]


def test_positions_may_have_several_axes():
    positions = torch.arange(24).view(3, 1, 8).expand(3, 2, 8)
    visual = torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0]] * 2)
    ledger = Ledger.start(visual, torch.ones(2, 8, dtype=torch.bool), positions)
    gone = torch.tensor([[0, 1, 0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]]).bool()
    _, left = ledger.without(gone, shorten=True)
    assert left.position.shape == (3, 2, 6)
    assert left.position[1, 0].tolist() == [8, 10, 12, 13, 14, 15] and left.position[2, 1, 1:].tolist() == [
        16,
        20,
        21,
        22,
        23,
    ]
    with pytest.raises(ValueError, match="several rotary axes"):
        left.compacted()


def test_drafted_tokens_are_no_evidence_and_no_part_of_the_prompt(model):
    """Prompt and drafts in the first pass, as assisted decoding hands them; then a step from that cache."""
    batch, drafts = prompt((5, 24, 9)), torch.tensor([[8, 9, 10]])
    whole = torch.cat([batch.inputs_embeds, model.model.embed_tokens(drafts)], dim=1)
    with torch.no_grad(), reduced(model, "fastv@2:7"):
        alone = model(**batch.inputs, use_cache=True)
        chosen = model.model.last_trace[0].kept
        drafted = model(inputs_embeds=whole, visual=batch.visual, sample_seed=batch.sample_seed, use_cache=True)
        assert torch.equal(model.model.last_trace[0].kept, chosen)
        torch.testing.assert_close(drafted.logits[:, -4], alone.logits[:, -1], rtol=0, atol=2e-5)
        # two drafts are rejected: the step after them goes on from the first
        drafted[CACHE].crop(-2)
        step = model(input_ids=torch.tensor([[40]]), **{CACHE: drafted[CACHE]}).logits[:, -1]
        right = torch.cat([whole[:, :39], model.model.embed_tokens(torch.tensor([[40]]))], dim=1)
        again = model(inputs_embeds=right, visual=batch.visual, sample_seed=batch.sample_seed, use_cache=False)
    torch.testing.assert_close(step, again.logits[:, -1], rtol=0, atol=2e-5)


def test_a_step_after_a_padded_draft_sees_each_slot_where_it_lies(model):
    """The second row's draft is padding: its slot stays hidden in the step, and the step's own slot is seen."""
    batch, draft = prompt((5, 24, 9), (3, 16, 6)), torch.tensor([[8], [8]])
    embed = model.model.embed_tokens
    whole = torch.cat([batch.inputs_embeds, embed(draft), embed(torch.tensor([[40], [41]]))], dim=1)
    mask = torch.cat([batch.attention_mask, torch.tensor([[1, 1], [0, 1]])], dim=1)
    inputs = {"visual": batch.visual, "sample_seed": batch.sample_seed}
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), reduced(model, "fastv@2:7"):
        first = {"inputs_embeds": whole[:, :-1], "attention_mask": mask[:, :-1], "position_ids": positions[:, :-1]}
        cache = model(**inputs, **first, use_cache=True)[CACHE]
        step = model(inputs_embeds=whole[:, -1:], attention_mask=mask, position_ids=positions[:, -1:], **{CACHE: cache})
        again = model(**inputs, inputs_embeds=whole, attention_mask=mask, position_ids=positions, use_cache=False)
    torch.testing.assert_close(step.logits[:, -1], again.logits[:, -1], rtol=0, atol=2e-5)


def test_layers_whose_weights_lie_elsewhere_give_the_same(model):
    """accelerate brings each layer's weights when it runs; evidence is read from such layers too."""
    accelerate = pytest.importorskip("accelerate")
    batch, plan = prompt(*MIXED), "fastv@2:7+himap@4:3"
    expected = logits(model, batch, plan)
    offloaded = accelerate.cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert torch.equal(logits(offloaded, batch, plan), expected)


# ------------------------------------------------------------------------------------------------------ other families


class _Qwen3(ReducibleDecoder, Qwen3Model):
    pass


class _Qwen3ForCausalLM(ReducibleCausalLM, Qwen3ForCausalLM):
    def __init__(self, config: Qwen3Config):
        super(Qwen3ForCausalLM, self).__init__(config)
        self.model, self.vocab_size = _Qwen3(config), config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


@pytest.fixture(scope="module")
def qwen3():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    model = _Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2) if parameter.dim() > 1 else parameter.uniform_(0.5, 1.5)
    return model


def test_a_family_with_norms_on_queries_and_keys(qwen3):
    """Bit-equal to its own forward without a plan, and the rows of attention are those of the eager map."""
    batch = prompt((5, 24, 9), (3, 16, 6))
    stock = Qwen3ForCausalLM(qwen3.config).eval()
    stock.load_state_dict(qwen3.state_dict())
    with torch.no_grad():
        expected = stock(inputs_embeds=batch.inputs_embeds, attention_mask=batch.attention_mask).logits
        assert torch.equal(qwen3(**batch.inputs).logits, expected)
        maps = qwen3(**batch.inputs, output_attentions=True, output_hidden_states=True)
        entered, layer = maps.hidden_states[1], qwen3.model.layers[1]
        rope = qwen3.model.rotary_emb(entered, position_ids=torch.arange(38)[None])
        rope = [part.expand(2, -1, -1) for part in rope]
        rows = torch.tensor([[37, 20], [37, 30]])
        keys = layer_keys(layer, entered, rope)
        actual = attention_rows(layer, entered, rope, rows, batch.attention_mask.bool(), keys)
    wanted = torch.stack([maps.attentions[1][row][:, rows[row]] for row in range(2)])
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-6)


def test_drop_equals_mask_there_too(qwen3):
    batch = prompt(*MIXED)
    dropped, masked = logits(qwen3, batch, "fastv@2:7"), logits(qwen3, batch, "fastv@2:7,place=mask")
    torch.testing.assert_close(dropped, masked, rtol=0, atol=2e-5)


def test_a_hook_on_the_attention_is_not_run_when_it_is_read(model):
    layer = copy.deepcopy(model.model.layers[0])
    entered = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    flat, rows = (torch.ones(1, 3, 16), torch.zeros(1, 3, 16)), torch.tensor([[2]])
    seen = torch.ones(1, 3, dtype=torch.bool)
    plain = attention_rows(layer, entered, flat, rows, seen, layer_keys(layer, entered, flat))
    layer.self_attn.forward = lambda *args, **kwargs: pytest.fail("a hook stays with the module that it was put on")
    assert torch.equal(plain, attention_rows(layer, entered, flat, rows, seen, layer_keys(layer, entered, flat)))


def test_attention_that_calls_no_attention_function_is_refused(model):
    layer = copy.deepcopy(model.model.layers[0])

    class Own(type(layer.self_attn)):
        def forward(self, hidden_states, **_):
            return hidden_states, None

    layer.self_attn.__class__ = Own
    with pytest.raises(ValueError, match="cannot be read"):
        layer_keys(layer, torch.zeros(1, 3, WIDTH), (torch.ones(1, 3, 16), torch.zeros(1, 3, 16)))

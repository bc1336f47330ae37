"""What a stage in the decoder can ask, against the maps and states of a model that shows everything."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from llava.reduction import Need, Reducer, Stage, reduced
from tests.tiny import prompt, tiny_model

LAYER = 3
BATCH = ((5, 24, 9), (3, 24, 6))


class Asks(Reducer):
    """Keeps everything and takes down the answers to its questions."""

    name, sites = "asks", ("layer",)
    needs = frozenset({Need.ATTENTION, Need.CHANGE, Need.EMBEDDINGS, Need.TEXT})
    wants_keep, looks_back = False, 3
    answers: ClassVar[dict] = {}

    def __init__(self, ask):
        super().__init__()
        self.ask = ask

    def select(self, tokens, evidence, k):
        Asks.answers = self.ask(evidence)
        return torch.ones(tokens.shape[:2], dtype=torch.bool)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def ask(model, batch, question):
    with torch.no_grad(), reduced(model, [Stage(Asks(question), "layer", LAYER)]):
        model(**batch.inputs, use_cache=True)
    return Asks.answers


@pytest.fixture(scope="module")
def shown(model):
    """Maps (L, B, H, S, S) and states (L + 1, B, S, D) of the same batch."""
    model.set_attn_implementation("eager")
    with torch.no_grad(), reduced(model, ""):
        out = model(**prompt(*BATCH).inputs, output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation("sdpa")
    return torch.stack(out.attentions), torch.stack(out.hidden_states[: LAYER + 1])


def image_of(batch, row):
    return (batch.visual[row] == 1).nonzero()[:, 0]


def text_of(batch, row):
    return torch.arange(int(image_of(batch, row)[-1]) + 1, batch.visual.shape[1])


@pytest.mark.parametrize("back", [0, 1, 2, 3])
@pytest.mark.parametrize("rows", ["last", "text", "image"])
def test_attention_of_any_layer_equals_the_map(model, shown, rows, back):
    batch, maps = prompt(*BATCH), shown[0]
    answers = ask(
        model, batch, lambda e: {heads: e.attention(rows, heads, back=back) for heads in ("all", "mean", "max")}
    )
    for row in range(2):
        image = image_of(batch, row)
        queries = {"last": torch.tensor([-1]), "text": text_of(batch, row), "image": image}[rows]
        expected = maps[LAYER - back, row][:, queries][:, :, image]  # (H, R, N)
        found = answers["all"][row]
        found = found[:, None] if rows == "last" else found[:, -len(queries) :]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        for heads, reduce in (("mean", expected.mean(0)), ("max", expected.amax(0))):
            torch.testing.assert_close(
                answers[heads][row].view(-1, len(image))[-len(reduce) :], reduce, rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("rows", ["text", "image"])
def test_what_is_received_is_the_sum_over_the_rows(model, rows, heads):
    batch = prompt(*BATCH)
    answers = ask(model, batch, lambda e: (e.received(rows, heads), e.attention(rows, heads)))
    torch.testing.assert_close(answers[0], answers[1].sum(1))


def test_a_softmax_over_the_image_alone(model, shown):
    batch = prompt(*BATCH)
    found = ask(model, batch, lambda e: e.attention("last", image_only=True))
    for row in range(2):
        whole = shown[0][LAYER - 1, row][:, -1, image_of(batch, row)]
        torch.testing.assert_close(found[row], whole / whole.sum(-1, keepdim=True), rtol=0, atol=1e-6)


def test_without_rotary_embedding_positions_do_not_matter(model):
    """Two equal images differ by their position alone, which attention without rotation cannot see."""
    batch = prompt((4, 10, 3, 10, 5))
    batch.inputs_embeds[0, 17:27] = batch.inputs_embeds[0, 4:14]
    plain = ask_first(model, batch, lambda e: e.attention("last", rope=False, image_only=True))
    turned = ask_first(model, batch, lambda e: e.attention("last", image_only=True))
    torch.testing.assert_close(plain[0], plain[1])
    assert (turned[0] - turned[1]).abs().max() > 1e-3


def ask_first(model, batch, question):
    """The same at layer 1, which nothing but the embeddings has reached."""
    with torch.no_grad(), reduced(model, [Stage(Asks(question), "layer", 1)]):
        model(**batch.inputs)
    return Asks.answers


def test_keys_change_and_embeddings(model, shown):
    batch, states = prompt(*BATCH), shown[1]
    answers = ask(
        model,
        batch,
        lambda e: {
            "keys": e.keys("image"),
            "text keys": e.keys("text"),
            "queries": e.queries(),
            "change": e.change(),
            "image": e.embeddings("image"),
            "text": e.embeddings("text"),
        },
    )
    with torch.no_grad(), reduced(model, ""):
        cached = model(**batch.inputs, use_cache=True).past_key_values.layers[LAYER - 1].keys
    for row in range(2):
        image, text = image_of(batch, row), text_of(batch, row)
        torch.testing.assert_close(answers["keys"][0][row], cached[row][:, image])
        torch.testing.assert_close(answers["text keys"][0][row][:, -len(text) :], cached[row][:, text])
        before = model.model.layers[LAYER - 1]
        queries = before.self_attn.q_proj(before.input_layernorm(states[LAYER - 1][row, image]))
        torch.testing.assert_close(answers["queries"][row].transpose(0, 1).flatten(1), queries)
        torch.testing.assert_close(answers["change"][row], (states[LAYER] - states[LAYER - 1])[row, image])
        for name, columns in (("image", image), ("text", text)):
            found, real = answers[name]
            assert torch.equal(found[row][real[row]], batch.inputs_embeds[row, columns])


def test_the_bias_of_positions_is_what_ones_have_at_the_same_places(model):
    batch = prompt(*BATCH)
    found = ask(model, batch, lambda e: e.position_bias("text"))
    for row in range(2):
        image, text = image_of(batch, row), text_of(batch, row)
        apart = (text[:, None] - image).double()
        frequencies = 10000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
        expected = 2 * (apart[..., None] * frequencies).cos().sum(-1) / 4
        torch.testing.assert_close(found[row, -len(text) :], expected.float(), rtol=0, atol=1e-5)


def test_what_was_not_asked_for_in_time_is_refused(model):
    with pytest.raises(ValueError, match="looks_back of at least 4"):
        ask(model, prompt(*BATCH), lambda e: e.attention("last", back=4))


def test_a_look_back_over_another_stage_sees_the_survivors_alone(model):
    batch = prompt(*BATCH)
    seen = []

    def question(evidence):
        seen.append(evidence.attention("last", back=2))

    with torch.no_grad(), reduced(model, ["random@2:7", Stage(Asks(question), "layer", LAYER)]):
        model(**batch.inputs)
    assert seen[0].shape == (2, 4, 7) and seen[0].isfinite().all()

"""Cutting attention: which entries, in which layers, and that nothing else changes."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from llava.analysis.disruption import Disturbed, jaccard, reference_scores
from llava.analysis.isolation import Isolation, blocked, isolated
from llava.eval.ask.subject import Generation
from llava.reduction import Ledger
from tests.conftest import PARITY15
from tests.tiny import LAYERS, generate, prompt, tiny_model


@pytest.fixture
def ledger():
    """One padding slot, BOS, two picture tokens, two words."""
    valid = torch.tensor([[False, True, True, True, True, True]])
    return Ledger.start(torch.tensor([[0, 0, 1, 1, 0, 0]]), valid, torch.arange(6))


@pytest.mark.parametrize(("modality", "rows"), [("img2img", [2, 3]), ("img2txt", [4, 5])])
def test_entries_by_hand(ledger, modality, rows):
    found = blocked(modality, ledger, [0])[0]
    assert found.nonzero().tolist() == [[row, column] for row in rows for column in (2, 3)]


def test_random_rows_are_as_many_as_words_and_follow_the_seed(ledger):
    drawn = [blocked("img2rnd", ledger, [seed])[0].any(1).nonzero()[:, 0].tolist() for seed in range(20)]
    assert all(len(rows) == 2 and set(rows) <= {2, 3, 4, 5} for rows in drawn)
    assert len({tuple(rows) for rows in drawn}) > 1
    assert drawn[3] == blocked("img2rnd", ledger, [3])[0].any(1).nonzero()[:, 0].tolist()


def test_a_picture_without_anything_before_it_is_refused():
    first = Ledger.start(torch.tensor([[1, 1, 0]]), torch.ones(1, 3, dtype=torch.bool), torch.arange(3))
    with pytest.raises(ValueError, match="the picture is the prompt's very first token"):
        blocked("img2img", first, [0])


def maps(model, batch, isolation=None):
    """Eager attention of every layer, with or without an isolation."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        if isolation is None:
            return model(**batch.inputs, output_attentions=True).attentions
        with isolated(model.model, isolation, [1, 2]):
            return model(**batch.inputs, output_attentions=True).attentions


@pytest.mark.parametrize("scope", ["layer", "onward"])
@pytest.mark.parametrize("modality", ["img2img", "img2txt", "img2rnd"])
def test_exactly_the_named_layers_are_cut(modality, scope):
    """The authors' program shares one mask between the layers, so theirs cannot tell the two scopes apart."""
    model, batch = tiny_model(), prompt((5, 24, 9), (3, 16, 6))
    before, after = maps(model, batch), maps(model, batch, Isolation(modality, 2, scope))
    ledger = Ledger.start(batch.visual, batch.attention_mask.bool(), torch.arange(38))
    cut = blocked(modality, ledger, [1, 2])[:, None].expand(-1, 4, -1, -1)
    real = batch.attention_mask.bool()
    for layer in range(LAYERS):
        disturbed = layer == 2 or (scope == "onward" and layer > 2)
        assert (after[layer][cut].max() == 0) == disturbed
        for row in range(2):
            sums = after[layer][row][:, real[row]].sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums))
    assert all(torch.equal(one, other) for one, other in zip(before[:2], after[:2]))


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_cached_decoding_cuts_as_recomputing_does(backend):
    """Under ``img2txt`` the answer's own tokens do not see the picture either, in every step."""
    model, batch, isolation = tiny_model(), prompt((5, 24, 9)), Isolation("img2txt", 0, "onward")
    model.set_attn_implementation(backend)
    with isolated(model.model, isolation, [0]):
        blind = generate(model, batch, steps=5)
        recomputed = generate(model, batch, steps=5, use_cache=False)
    other = prompt((5, 24, 9), seed=5)
    changed = batch.inputs_embeds.clone()
    changed[:, 5:29] = other.inputs_embeds[:, 5:29]
    batch.inputs_embeds = changed
    with isolated(model.model, isolation, [0]):
        assert torch.equal(generate(model, batch, steps=5), blind)
    assert not torch.equal(generate(model, batch, steps=5), blind)
    assert torch.equal(recomputed, blind)


def test_flash_attention_is_refused():
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    with (
        pytest.raises(ValueError, match="takes no mask of single entries"),
        isolated(model.model, Isolation("img2img", 0, "layer"), [0]),
    ):
        pass


def test_a_batch_equals_each_alone_and_the_undisturbed_model(subject):
    features = subject.encode([Image.open(PARITY15 / f"image{number}.png").convert("RGB") for number in range(2)])
    texts = ["What?", "Is there a dog in the picture?"]
    isolations = [Isolation(modality, 3, "onward") for modality in ("img2img", "img2txt", "img2rnd")]
    together = Disturbed(subject, isolations).answer(texts, features, [], Generation(3))
    plain = subject.answer(texts, features, [], Generation(3))
    for row, reply in enumerate(together):
        (alone,) = Disturbed(subject, isolations).answer(
            texts[row : row + 1], features[row : row + 1], [], Generation(3)
        )
        assert reply.layers == alone.layers
        assert reply.layers[0][0] == plain[row].text == reply.text
        assert len(reply.layers) == 4 and all(len(set(top)) == 5 for _, top in reply.layers)


def test_jaccard():
    assert jaccard([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]) == 1
    assert jaccard([1, 2, 3, 4, 5], [4, 5, 6, 7, 8]) == 0.25


def test_reference_scores_of_a_file(tmp_path):
    file = tmp_path / "asked.json"
    file.write_text(json.dumps([{"id": 4, "top5_res": [1, 2, 3, 4, 5]}]))
    assert reference_scores(file) == {"4": [1, 2, 3, 4, 5]}
    file.write_text(json.dumps([{"id": 4, "top5_res": [1]}, {"id": 5}]))
    with pytest.raises(ValueError, match="record 2: question 5 has no top5_res"):
        reference_scores(file)


def test_command_line(analyse, tmp_path, capsys):
    flags = ["--output-dir", "out", "--isolate-modality", "img2txt", "--isolate-layer", "0", "7", "--scope", "layer"]
    assert analyse("disruption", *flags, task="scienceqa") == 0
    held = json.loads((tmp_path / "out" / "disruption.json").read_text())
    none, first, last = held["isolations"]
    assert none["score_consistency"]["value"] == 1 and none["modality"] == "none"
    assert (first["layer"], first["scope"], last["layer"]) == (0, "layer", 7)
    assert {"label_consistency", "accuracy"} < set(first)
    assert "img2txt" in capsys.readouterr().out
    assert (tmp_path / "out" / "disruption.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--isolate-layer", "8"], "--isolate-layer 8 must be 0 to 7"),
        (["--reference-scores", "file"], "has no top5_res"),
    ],
)
def test_bad_input_ends_with_a_sentence(analyse, caplog, flags, message):
    assert analyse("disruption", "--output-dir", "out", *flags, task="scienceqa") == 2
    assert message in caplog.text

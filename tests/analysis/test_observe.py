"""What an observer sees is what eager attention computes, with padding, several pictures, and under a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llava.analysis.observe import GROUPS, LayerAttention, prefills, token_groups, watched
from llava.reduction import Ledger, reduced
from tests.tiny import LAYERS, MIXED, generate, prompt, tiny_model


def eager(plan: str, batch):
    """The model, its attention maps layer by layer, and the ledger of every layer."""
    model = tiny_model()
    model.set_attn_implementation("eager")
    with torch.no_grad(), reduced(model, plan):
        maps = model(**batch.inputs, output_attentions=True).attentions
    return model, maps, model.model.last_ledgers


@pytest.mark.parametrize(
    "plan", ["full", "fastv@2:8", "random@2:9+fastv@4:5,place=mask", "fastv@3:6,positions=compact"]
)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_rows_equal_eager_attention(plan, backend):
    batch = prompt(*MIXED[:3])
    model, maps, ledgers = eager(plan, batch)
    model.set_attn_implementation(backend)
    seen = set()

    def visit(row: int, attention: LayerAttention) -> None:
        valid = ledgers[attention.layer].valid[row]
        expected = maps[attention.layer][row][:, valid][:, :, valid]
        everything = torch.arange(int(valid.sum()))
        torch.testing.assert_close(attention.rows(everything), expected, rtol=0, atol=1e-5)
        assert len(attention.origin) == int(
            ((ledgers[attention.layer].visual[row] > 0) & ledgers[attention.layer].visible[row]).sum()
        )
        seen.add((row, attention.layer))

    with torch.no_grad(), reduced(model, plan), watched(model.model, visit, () if plan == "full" else ledgers):
        model(**batch.inputs)
    assert seen == {(row, layer) for row in range(3) for layer in range(LAYERS)}


def test_groups_by_hand():
    """Padding, BOS, two system words, three image tokens (the second hidden), two words: columns count without padding."""
    visual = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0, 0]])
    valid = torch.tensor([[False, *[True] * 8]])
    ledger = Ledger.start(visual, valid, torch.arange(9))
    ledger = replace(ledger, visible=valid & (torch.arange(9) != 5))
    found = token_groups(ledger, 0)
    assert {name: columns.tolist() for name, columns in found.items()} == {
        "bos": [0],
        "system": [1, 2],
        "visual": [3, 5],
        "text": [6, 7],
    }
    assert tuple(found) == GROUPS


def test_a_prompt_without_a_picture_is_text():
    batch = prompt((5, 24, 9), (20,))
    ledger = Ledger.start(batch.visual, batch.attention_mask.bool(), torch.arange(38))
    assert [len(columns) for columns in token_groups(ledger, 1).values()] == [1, 0, 0, 19]


def test_origin_leads_back_to_the_picture_through_two_stages():
    model, batch, plan = tiny_model(), prompt((5, 24, 9)), "fastv@2:10+fastv@4:4"
    origins = {}
    with torch.no_grad(), reduced(model, plan):
        model(**batch.inputs)
        first, second = (record.kept[0] for record in model.model.last_trace)
        ledgers = model.model.last_ledgers
        with watched(
            model.model, lambda row, attention: origins.update({attention.layer: attention.origin.tolist()}), ledgers
        ):
            model(**batch.inputs)
    assert origins[1] == list(range(24))
    assert origins[3] == first.tolist()
    assert origins[5] == first[second].tolist()


def test_blocks_are_cut_from_rows_and_empty_groups_are_empty():
    model, batch, shapes = tiny_model(), prompt((1, 24, 9)), []

    def visit(row: int, attention: LayerAttention) -> None:
        whole = torch.cat(list(attention.chunks("text")), dim=1)
        assert torch.equal(attention.block("text", "visual"), whole[..., attention.columns["visual"]])
        shapes.append(
            (tuple(attention.block("visual", "text").shape), tuple(attention.block("system", "visual").shape))
        )

    with torch.no_grad(), watched(model.model, visit):
        model(**batch.inputs)
    assert set(shapes) == {((4, 24, 9), (4, 0, 24))}


def test_only_the_prefill_is_shown_and_hooks_go_away():
    model, batch, seen = tiny_model(), prompt((5, 24, 9), (3, 16, 6)), []
    with prefills(model.model, [1, 4], lambda number, entered, rope: seen.append((number, tuple(entered.shape)))):
        generate(model, batch, steps=3)
    assert seen == [(1, (2, 38, 64)), (4, (2, 38, 64))]
    generate(model, batch, steps=2)
    assert len(seen) == 2

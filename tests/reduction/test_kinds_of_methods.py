"""The contract for kinds of methods that the registry may lack: they read the question, let pictures differ, or merge."""

from __future__ import annotations

import pytest
import torch

from llava.reduction import Need, Reducer, Stage, reduced
from llava.reduction.score import question_relevance
from llava.reduction.select import topk
from llava.reduction.views import Views, reduce_images
from tests.tiny import MIXED, WIDTH, generate, prompt, tiny_model


class Asked(Reducer):
    """Keep the tokens most like the question's words, at the prompt as in the decoder."""

    name, needs, sites = "asked", frozenset({Need.TEXT}), ("prompt", "layer")

    def select(self, tokens, evidence, k):
        return topk(question_relevance(tokens, *evidence.text()), k)


class Adaptive(Reducer):
    """Keep the tokens above the mean norm of their picture: how many, the picture decides."""

    name, wants_keep = "adaptive", False

    def select(self, tokens, evidence, k):
        norm = tokens.norm(dim=-1)
        return norm > norm.mean(1, keepdim=True)


class Merging(Adaptive):
    """The same, and each token that is kept takes up the mean of its picture."""

    name, merges = "merging", True

    def aggregate(self, tokens, kept, evidence):
        return super().aggregate(tokens, kept, evidence) + tokens.mean(1, keepdim=True)


KINDS = {"asked": (Asked, 6), "adaptive": (Adaptive, None), "merging": (Merging, None)}


def plan(name: str, layer: int = 2, **options) -> list[Stage]:
    kind, keep = KINDS[name]
    return [Stage(kind(), "layer", layer, keep, **options)]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def logits(model, batch, stages):
    with torch.no_grad(), reduced(model, stages):
        return model(**batch.inputs).logits[:, -1], model.model.last_trace


@pytest.mark.parametrize("name", KINDS)
def test_drop_equals_mask_and_a_batch_each_row_alone(model, name):
    batch = prompt(*MIXED)
    together, trace = logits(model, batch, plan(name))
    masked, _ = logits(model, batch, plan(name, place="mask"))
    torch.testing.assert_close(together, masked, rtol=0, atol=2e-5)
    for row in range(len(MIXED)):
        alone, own = logits(model, batch.row(row), plan(name))
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=2e-5)
        if own:
            assert trace[0].kept[row][trace[0].kept[row] >= 0].tolist() == own[0].kept[0].tolist()


@pytest.mark.parametrize("name", KINDS)
def test_beams_and_decoding(model, name):
    batch = prompt(*MIXED)
    with reduced(model, plan(name)):
        together = generate(model, batch, num_beams=3)
        for row in range(len(MIXED)):
            assert torch.equal(together[row], generate(model, batch.row(row), num_beams=3)[0])


@pytest.mark.parametrize("name", KINDS)
def test_before_the_decoder_a_batch_is_each_alone_whatever_its_length(name):
    torch.manual_seed(0)
    kind, keep = KINDS[name]
    images = [torch.randn(length, WIDTH) for length in (36, 20, 36, 7)]
    words, real = torch.randn(4, 5, WIDTH), torch.tensor([[True] * 5, [True] * 2 + [False] * 3] * 2)
    stage = Stage(kind(), "prompt", keep=keep)
    reduced_views, (record,) = reduce_images([stage], "prompt", Views(images, torch.arange(4), None, (words, real)))
    together = reduced_views.tokens
    for row, image in enumerate(images):
        own = (words[row : row + 1], real[row : row + 1])
        one, _ = reduce_images([stage], "prompt", Views([image], torch.arange(row, row + 1), None, own))
        (alone,) = one.tokens
        torch.testing.assert_close(alone, together[row])
        assert len(alone) == int(record.after[row]) and (keep is None or len(alone) == keep)


def test_a_stage_that_takes_no_budget_refuses_one():
    with pytest.raises(ValueError, match="keep=8 of adaptive: adaptive takes no budget"):
        Stage(Adaptive(), "prompt", keep=8)


def test_the_question_is_refused_where_it_has_another_width():
    with pytest.raises(ValueError, match="cannot stand at site='features'"):
        Stage(Asked(), "features", keep=8)

"""Training chooses as inference does: what is to be learned never decides what is kept, and what is judged stays."""

from __future__ import annotations

import pytest
import torch

from llava.model.vision.words import questions
from llava.reduction import reduced
from tests.reduction.test_conformance import BUDGETED, decoder_plan
from tests.tiny import Prompt, prompt, tiny_model

IGNORE = -100


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def kept(model, inputs: dict, plan, labels=None) -> list[torch.Tensor]:
    """Origins of the visual tokens that each row keeps."""
    with torch.no_grad(), reduced(model, plan):
        model(**inputs, labels=labels, use_cache=False)
    record = model.model.last_trace[0]
    return [record.kept_origins(row, text=False) for row in range(len(record.chosen))]


def answered(batch: Prompt, answers: list[int], side: str) -> tuple[dict, torch.Tensor, list[int]]:
    """The rows of a batch followed by answers of such lengths, padded; the labels; where each row begins."""
    rows = [batch.row(number) for number in range(len(answers))]
    lengths = [row.inputs_embeds.shape[1] + answer for row, answer in zip(rows, answers)]
    longest = max(lengths)
    torch.manual_seed(11)
    embeds = torch.randn(len(rows), longest, batch.inputs_embeds.shape[-1])
    mask, visual = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(2))
    labels = torch.full((len(rows), longest), IGNORE)
    starts = [longest - length if side == "left" else 0 for length in lengths]
    for number, (row, start, length, answer) in enumerate(zip(rows, starts, lengths, answers)):
        end = start + length
        embeds[number, start : end - answer] = row.inputs_embeds[0]
        visual[number, start : end - answer] = row.visual[0]
        mask[number, start:end] = 1
        labels[number, end - answer : end] = torch.randint(3, 90, (answer,))
    inputs = {"inputs_embeds": embeds, "attention_mask": mask, "visual": visual, "sample_seed": batch.sample_seed}
    # What a method reads of rotated keys by themselves changes with the positions
    inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs, labels, starts


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", BUDGETED)
def test_a_teacher_forced_row_keeps_what_its_prompt_alone_keeps(model, name, side):
    """Answers of other lengths, ragged rows, two images of other lengths in one row, padding on either side."""
    batch = prompt((5, 24, 9), (3, 16, 6), (4, 10, 3, 24, 5))
    inputs, labels, starts = answered(batch, [4, 1, 7], side)
    plan = decoder_plan(name)
    taught = kept(model, inputs, plan, labels)
    for number, start in enumerate(starts):
        (alone,) = kept(model, batch.row(number).inputs, plan)
        assert torch.equal(taught[number] - start, alone)


@pytest.mark.parametrize("name", BUDGETED)
def test_an_image_of_a_later_turn_is_chosen_with_the_turns_before_it(model, name):
    """Question, answer, question with another image, answer: the second image sees the first answer, not its own."""
    whole = prompt((5, 24, 6 + 3 + 4, 16, 6 + 5))
    labels = torch.full(whole.visual.shape, IGNORE)
    labels[0, 35:38] = torch.tensor([5, 6, 7])  # after 5 + 24 + 6 positions
    labels[0, 64:69] = 9
    plan = decoder_plan(name)
    (taught,) = kept(model, whole.inputs, plan, labels)
    first = {key: value[:, :35] if value.dim() > 1 else value for key, value in whole.inputs.items()}
    second = {key: value[:, :64] if value.dim() > 1 else value for key, value in whole.inputs.items()}
    assert torch.equal(taught[taught < 35], kept(model, first, plan)[0])
    assert torch.equal(taught[taught > 35], kept(model, second, plan)[0][7:])


@pytest.mark.parametrize("plan", ["fastv@2:7", "random@2:7", "himap@1:9+himap@3:4,rows=image", "blind@2"])
def test_the_loss_of_a_row_whose_label_follows_the_picture_directly_stays(model, plan):
    """Captions of stage 1: the last picture token judges the first token of the caption."""
    batch = prompt((5, 24, 4))
    labels = torch.full(batch.visual.shape, IGNORE)
    labels[0, 29:] = torch.tensor([5, 6, 7, 8])
    losses = []
    for place in ("drop", "mask"):
        written = "+".join(f"{stage}{',' if ':' in stage else ':'}place={place}" for stage in plan.split("+"))
        with torch.no_grad(), reduced(model, written):
            losses.append(model(**batch.inputs, labels=labels).loss)
        assert (model.model.last_ledgers[-1].labels(labels) != IGNORE).sum() == 4
    torch.testing.assert_close(*losses, rtol=0, atol=2e-6)


@pytest.mark.parametrize("plan", ["fastv@2:7", "random@2:7,positions=compact", "random@1:12+himap@3:4", "blind@2"])
def test_a_prompt_that_ends_with_the_picture_answers_from_its_last_row(model, plan):
    batch = prompt((5, 24), (3, 16, 4), (9, 13))
    with torch.no_grad(), reduced(model, plan):
        logits = model(**batch.inputs).logits[:, -1]
        tokens = model.generate(**batch.inputs, max_new_tokens=5, do_sample=False)
        for row in range(3):
            alone = batch.row(row)
            torch.testing.assert_close(logits[row], model(**alone.inputs).logits[0, -1], rtol=0, atol=2e-5)
            assert torch.equal(model.generate(**alone.inputs, max_new_tokens=5, do_sample=False)[0], tokens[row])
    if "compact" in plan:
        return
    masked = "+".join(f"{stage}{',' if ':' in stage else ':'}place=mask" for stage in plan.split("+"))
    with torch.no_grad(), reduced(model, masked):
        torch.testing.assert_close(logits, model(**batch.inputs).logits[:, -1], rtol=0, atol=2e-5)
        assert torch.equal(model.generate(**batch.inputs, max_new_tokens=5, do_sample=False), tokens)


def test_the_answer_never_reaches_the_question_of_a_feature_stage(llava15):
    """Two answers to one prompt: a stage before the decoder that reads the question keeps the same."""
    model, case = llava15.model, llava15.inputs(llava15.cases()[0])
    ids = case["input_ids"]
    words = []
    for answer in ([5, 6, 7], [90, 91]):
        whole = torch.cat([ids, torch.tensor([answer])], dim=1)
        labels = torch.full_like(whole, IGNORE)
        labels[:, ids.shape[1] :] = whole[:, ids.shape[1] :]
        words.append(questions(model.get_model().embed_tokens, list(whole), list(labels)))
    prompt_alone = questions(model.get_model().embed_tokens, list(ids), [torch.full_like(ids[0], IGNORE)])
    for embeddings, real in words:
        assert torch.equal(embeddings, prompt_alone[0]) and torch.equal(real, prompt_alone[1])

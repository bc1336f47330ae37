"""LLaVA as a whole: parity with the official code, batches, beams, labels, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TextStreamer

from llava.conversation import get_conversation
from llava.mm_utils import KeywordsStoppingCriteria, process_images, tokenizer_image_token
from llava.model import LlavaConfig, LlavaLlamaForCausalLM

GREEDY = {"do_sample": False, "max_new_tokens": 16}


def check_parity(world, case):
    conv = get_conversation(case["conv"])
    images = world.images(case)
    conv.append_message(conv.roles[0], "<image>\n" * len(images) + case["question"])
    conv.append_message(conv.roles[1], None)
    assert conv.get_prompt() == case["prompt"]
    ids = tokenizer_image_token(case["prompt"], world.tokenizer, return_tensors="pt")
    assert ids.tolist() == case["input_ids"]

    inputs = world.inputs(case)
    if images:
        pixels = process_images(images, world.image_processor, world.model.config)
        assert sum(part.double().sum().item() for part in pixels) == pytest.approx(case["pixel_sum"], abs=1e-2)
        shape = list(pixels.shape) if isinstance(pixels, torch.Tensor) else [list(part.shape) for part in pixels]
        assert shape == case["pixel_shape"]

    spliced = world.model.splice(**inputs)
    assert spliced.inputs_embeds.shape[1] == case["seq_len"]
    # A random image_newline is so large that the norm of its row is infinite on both sides.
    torch.testing.assert_close(
        spliced.inputs_embeds[0].norm(dim=-1), torch.tensor(case["embeds_norm"]), atol=1e-4, rtol=0
    )
    with torch.no_grad():
        logits = world.model(**inputs).logits[0, -1]
    torch.testing.assert_close(logits, torch.tensor(case["logits_last"]), atol=1e-4, rtol=0)
    new = world.model.generate(**inputs, **GREEDY)
    assert new[0].tolist() == case["generated"][1:]  # the official list begins with BOS
    assert world.tokenizer.batch_decode(new, skip_special_tokens=True) == [case["text"]]


@pytest.mark.parametrize("number", range(6))
def test_parity_with_llava_15(llava15, number):
    check_parity(llava15, llava15.cases()[number])


@pytest.mark.parametrize("number", range(6))
def test_parity_with_llava_16_anyres(llava16, number):
    check_parity(llava16, llava16.cases()[number])


def batched(world, cases, side):
    """Prompts of several cases in one batch, with a mask that says where they are."""
    longest = max(len(case["input_ids"]) for case in cases)
    ids, mask = torch.zeros(len(cases), longest, dtype=torch.long), torch.zeros(len(cases), longest, dtype=torch.long)
    for i, case in enumerate(cases):
        n = len(case["input_ids"])
        place = slice(longest - n, longest) if side == "left" else slice(0, n)
        ids[i, place], mask[i, place] = torch.tensor(case["input_ids"]), 1
    pixels = [pixel for case in cases if case["images"] for pixel in world.inputs(case)["images"]]
    return {"input_ids": ids, "attention_mask": mask, "images": torch.stack(pixels)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_answers_as_each_row_alone(llava15, side):
    """One image, two images, and text only; the config says right, generation pads left all the same."""
    cases = [llava15.cases()[number] for number in (0, 2, 5)]
    new = llava15.model.generate(**batched(llava15, cases, side), **GREEDY)
    for row, case in zip(new.tolist(), cases, strict=True):
        assert row == case["generated"][1:]


def test_forward_of_a_batch_is_each_row_alone(llava15):
    cases = [llava15.cases()[number] for number in (0, 2, 5)]
    with torch.no_grad():
        logits = llava15.model(**batched(llava15, cases, "right")).logits
    for row, case in zip(logits, cases, strict=True):  # padded on the right, as the config says
        torch.testing.assert_close(row[case["seq_len"] - 1], torch.tensor(case["logits_last"]), atol=1e-4, rtol=0)


def test_three_ways_to_call_generate(llava15):
    inputs = llava15.inputs(llava15.cases()[0])
    ids, more = inputs["input_ids"], {**GREEDY, "images": inputs["images"], "max_new_tokens": 4}
    new = llava15.model.generate(ids, **more)
    assert torch.equal(llava15.model.generate(inputs=ids, **more), new)
    assert torch.equal(llava15.model.generate(input_ids=ids, **more), new)
    assert torch.equal(llava15.model.generate(ids, inputs["images"], [(1, 1)], **GREEDY)[:, :4], new)
    for wrong in ({}, {"inputs": ids, "input_ids": ids}):
        with pytest.raises(ValueError, match="give the prompt once"):
            llava15.model.generate(**wrong)
    with pytest.raises(NotImplementedError):
        llava15.model.generate(ids, inputs_embeds=torch.zeros(1, 2, 64))


def test_beams_batched_are_beams_alone(llava15):
    cases = [llava15.cases()[number] for number in (0, 5)]
    beams = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False, "max_new_tokens": 6}
    together = llava15.model.generate(**batched(llava15, cases, "left"), **beams)
    for i, case in enumerate(cases):
        alone = llava15.model.generate(**llava15.inputs(case), **beams)
        assert together[2 * i : 2 * i + 2].tolist() == alone.tolist()
    greedy = llava15.model.generate(**llava15.inputs(cases[0]), do_sample=False, max_new_tokens=6)
    assert greedy.shape == (1, 6)


def test_sampling_several_answers(llava15):
    torch.manual_seed(0)
    inputs = llava15.inputs(llava15.cases()[0])
    new = llava15.model.generate(**inputs, do_sample=True, temperature=5.0, num_return_sequences=4, max_new_tokens=5)
    assert new.shape[0] == 4 and len({tuple(row) for row in new.tolist()}) > 1


def test_streamer_sees_the_answer_only(llava15, capsys):
    case = llava15.cases()[0]
    streamer = TextStreamer(llava15.tokenizer, skip_prompt=True, skip_special_tokens=True)
    llava15.model.generate(**llava15.inputs(case), streamer=streamer, **GREEDY)
    assert capsys.readouterr().out.rstrip("\n") == case["text"]


def test_stopping_criteria_end_the_answer(llava15):
    case = llava15.cases()[0]
    inputs = llava15.inputs(case)
    third = llava15.tokenizer.decode(case["generated"][4])
    stop = KeywordsStoppingCriteria([third], llava15.tokenizer, inputs["input_ids"])
    new = llava15.model.generate(**inputs, stopping_criteria=[stop], **GREEDY)
    assert new[0].tolist() == case["generated"][1 : 1 + new.shape[1]] and new.shape[1] < 16


def test_cached_decoding_is_recomputing(llava15):
    case = llava15.cases()[0]
    inputs = llava15.inputs(case)
    ids = inputs["input_ids"]
    for token in case["generated"][1:5]:
        with torch.no_grad():
            logits = llava15.model(input_ids=ids, images=inputs["images"]).logits[0, -1]
        assert logits.argmax() == token
        ids = torch.cat((ids, torch.tensor([[token]])), dim=1)


def test_raw_features_answer_several_questions(llava15):
    case = llava15.cases()[0]
    inputs = llava15.inputs(case)
    raw = llava15.model.encode_raw(inputs["images"])
    for _ in range(2):
        new = llava15.model.generate(inputs["input_ids"], raw_vision_features=raw, **GREEDY)
        assert new[0].tolist() == case["generated"][1:]


def test_labels_count_text_only(llava15):
    inputs = llava15.inputs(llava15.cases()[0])
    ids = inputs["input_ids"]
    labels = torch.full_like(ids, -100)
    labels[0, -3:] = ids[0, -3:]
    with torch.no_grad():
        output = llava15.model(**inputs, labels=labels)
    logits = output.logits[0, -4:-1]
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(logits, ids[0, -3:]))


@pytest.mark.parametrize("reduction", [None, "fastv@1:40"])
def test_skipped_logits_leave_the_loss_and_its_gradient(llava15, reduction, monkeypatch):
    model, inputs = llava15.model, llava15.inputs(llava15.cases()[0])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, -6:-4], labels[0, -3:] = inputs["input_ids"][0, -6:-4], inputs["input_ids"][0, -3:]
    head, rows = model.lm_head, []
    project = head.forward
    monkeypatch.setattr(head, "forward", lambda hidden: rows.append(hidden.shape[:-1].numel()) or project(hidden))
    weight, found = model.model.layers[0].mlp.up_proj.weight, []
    for skip in (False, True):
        output = model(**inputs, labels=labels, reduction=reduction, skip_logits=skip)
        (gradient,) = torch.autograd.grad(output.loss, weight)
        found.append((output.loss.detach(), gradient))
        assert (output.logits is None) == skip
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-7)
    assert rows[1] == 5 < rows[0]


def test_image_token_without_an_image_and_the_reverse(llava15):
    ids = torch.tensor([[1, 5, -200, 6]])
    for call in (llava15.model.forward, llava15.model.generate):
        with pytest.raises(ValueError, match="image token"):
            call(ids)
        with pytest.raises(ValueError, match="0 image tokens .* but 1 images"):
            call(ids[:, :2], images=torch.ones(1, 3, 336, 336))


def test_text_alone_is_llama(llava15):
    ids = torch.tensor([[1, 5, 9, 6]])
    with torch.no_grad():
        spliced = llava15.model.splice(ids).inputs_embeds
        assert torch.equal(llava15.model(ids).logits, llava15.model(inputs_embeds=spliced).logits)


def test_registered_under_its_own_type():
    config = AutoConfig.for_model(
        "llava_llama", vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    assert type(config) is LlavaConfig
    assert type(AutoModelForCausalLM.from_config(config)) is LlavaLlamaForCausalLM

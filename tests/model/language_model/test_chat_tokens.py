"""Prompts of chat templates as byte-level tokenizers read them: BOS, the image's place, labels, and the ends of an answer."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from transformers import Qwen2Tokenizer

from llava.cli.settings import ModelSpec
from llava.constants import IGNORE_INDEX
from llava.conversation import get_conversation
from llava.eval.ask.opening import open_checkpoint
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.tokenizer import load_tokenizer
from llava.train.conversations import encode_record
from tests.families import ENDS, write_llava, write_tokenizer

MODES = {"llama3": "llava_llama_3", "qwen": "qwen_1_5", "mistral": "mistral_instruct"}


@pytest.fixture(scope="module", params=list(MODES))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind, tmp_path_factory):
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp(kind), kind))


def prompt_of(mode: str, *texts: str | None) -> str:
    talk = get_conversation(mode)
    for number, text in enumerate(texts):
        talk.append_message(talk.roles[number % 2], text)
    return talk.get_prompt()


def test_one_bos_at_most_and_the_pieces_around_the_image(kind, tokenizer):
    prompt = prompt_of(MODES[kind], "<image>\nWhat is in the picture?", None)
    before, after = prompt.split("<image>")
    ids = tokenizer_image_token(prompt, tokenizer)
    cut = ids.index(-200)
    own = {"add_special_tokens": False}
    if kind == "qwen":
        assert tokenizer.bos_token_id is None
        assert ids == tokenizer(before, **own).input_ids + [-200] + tokenizer(after, **own).input_ids
        assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    else:
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    if kind == "llama3":
        assert ids[:cut] == tokenizer(before, **own).input_ids and ids[cut + 1 :] == tokenizer(after, **own).input_ids
        first = tokenizer_image_token("<image>\na", tokenizer)
        assert first[:2] == [tokenizer.bos_token_id, -200] and first.count(tokenizer.bos_token_id) == 1


RECORD = {
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is in the picture?"},
        {"from": "gpt", "value": "A café, I think."},
        {"from": "human", "value": "Is it a dog? 猫"},
        {"from": "gpt", "value": "No: it's a 猫 🐈 ▁."},
    ]
}
ANSWERS = {
    "llama3": ["A café, I think.<|eot_id|>", "No: it's a 猫 🐈 ▁.<|eot_id|>"],
    "qwen": ["A café, I think.<|im_end|>\n", "No: it's a 猫 🐈 ▁.<|im_end|>\n"],
    "mistral": ["A café, I think. </s>", "No: it's a 猫 🐈 . </s>"],
}


def test_labels_are_the_answers_and_what_ends_them(kind, tokenizer):
    ids, labels = encode_record(RECORD, MODES[kind], tokenizer)
    assert ids.tolist() == tokenizer_image_token(
        prompt_of(MODES[kind], *(turn["value"] for turn in RECORD["conversations"])), tokenizer
    )
    judged = labels != IGNORE_INDEX
    assert torch.equal(labels[judged], ids[judged]) and not judged[ids == -200].any()
    edges = (
        judged.int().diff(prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int))
    ).nonzero()
    spans = edges.flatten().view(-1, 2).tolist()
    # sentencepiece's decoding puts a blank of its own in front of a special token
    texts = [re.sub(" +", " ", tokenizer.decode(ids[start:end])).strip(" ") for start, end in spans]
    assert texts == ANSWERS[kind]


def test_qwens_two_files_are_a_tokenizer(tmp_path):
    whole = load_tokenizer(write_tokenizer(tmp_path / "whole", "qwen"))
    raw = json.loads((tmp_path / "whole" / "tokenizer.json").read_text())
    pair = tmp_path / "pair"
    pair.mkdir()
    (pair / "vocab.json").write_text(json.dumps(raw["model"]["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in raw["model"]["merges"]]
    (pair / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (pair / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None,
                "added_tokens_decoder": {
                    str(token["id"]): {name: token[name] for name in ("content", "special", "normalized", "lstrip", "rstrip", "single_word")}
                    for token in raw["added_tokens"]
                },
            }
        )
    )  # fmt: skip
    two = load_tokenizer(pair)
    assert isinstance(two, Qwen2Tokenizer) and two.bos_token_id is None
    text = prompt_of("qwen_1_5", "What is in the picture? A café", None)
    assert two(text).input_ids == whole(text).input_ids
    (pair / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="nor vocab.json with merges.txt"):
        load_tokenizer(pair)


@pytest.mark.parametrize("kind", ["llama3", "qwen"])
@pytest.mark.parametrize("which", [0, 1])
def test_every_end_ends_an_answer(tmp_path, kind, which):
    """The config names one end, the tokenizer knows the mark of a turn as well: either stops generation."""
    folder = write_llava(tmp_path, kind)
    tokenizer = load_tokenizer(folder)
    ends = [tokenizer.convert_tokens_to_ids(end) for end in ENDS[kind]]
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": ends[1]}))
    _, model, *_ = load_pretrained_model(folder, device="cpu")
    assert sorted(model.generation_config.eos_token_id) == sorted(ends)
    assert model.generation_config.pad_token_id == ends[1]
    with torch.no_grad():  # every answer is this end
        model.lm_head.weight.zero_()
        model.model.norm.weight.zero_()
    bias = {(token,): -1.0 for token in range(model.config.vocab_size) if token != ends[which]}
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False, sequence_bias=bias)
    assert out.tolist() == [[ends[which]]]
    model.save_pretrained(tmp_path / "again")


def test_an_evaluation_asks_with_the_models_own_template(tmp_path):
    """LLaVA's scripts name Vicuna's, which only models over Vicuna were trained on."""
    for kind, mode in (("qwen", "qwen_1_5"), ("mistral", "mistral_instruct")):
        folder = write_llava(tmp_path / f"tiny-{kind[0]}", kind)
        spec = ModelSpec(folder, usual_conv_mode="vicuna_v1")
        assert open_checkpoint(spec).conv_mode == mode
        assert open_checkpoint(replace(spec, conv_mode="vicuna_v1")).conv_mode == "vicuna_v1"
    folder = write_llava(tmp_path / "llama3-tiny", "llama3")
    assert open_checkpoint(ModelSpec(folder, usual_conv_mode="vicuna_v1")).conv_mode == "llava_llama_3"
    folder = write_llava(tmp_path / "tiny-l", "llama3")
    assert open_checkpoint(ModelSpec(folder, usual_conv_mode="vicuna_v1")).conv_mode == "vicuna_v1"

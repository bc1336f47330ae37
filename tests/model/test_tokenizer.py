"""Our tokenizer against sentencepiece itself: [BOS] + pieces, whatever the text begins with."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import sentencepiece

from llava.mm_utils import tokenizer_image_token
from llava.model import tokenizer as module
from llava.model.tokenizer import LlamaTokenizer, load_tokenizer

LINES = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: What is the colour of the star? ASSISTANT: red",
    "Is there a red apple in the picture? Please answer yes or no.",
    "Answer with the option's letter from the given choices directly.",
    "3.14 is about 22/7; 1234567890 \u4f60\u597d",
]
TEXTS = [
    "\nWhat?",
    " What is it?",
    "  two blanks",
    "What?",
    "",
    " ",
    "\n",
    "a\n\nb",
    "\u4f60 3.14",
    "tab\there",
    "caf\u00e9",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A byte-fallback BPE with Llama's settings, and the config file LLaVA ships beside it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("\n".join(LINES * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=0.98,
        minloglevel=2,
    )
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "legacy": True,
        "pad_token": "<unk>",
        "padding_side": "right",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def model(folder) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("legacy", [True, False])
def test_exactly_sentencepiece(folder, model, legacy):
    tokenizer = load_tokenizer(folder, legacy=legacy)
    words = random.Random(0)
    texts = TEXTS + ["".join(words.choices("ab e\n?12 ", k=12)) for _ in range(300)]
    for text in texts:
        assert tokenizer(text).input_ids == [1, *model.encode(text)], repr(text)


@pytest.mark.parametrize("legacy", [True, False])
def test_decodes_what_it_encoded(folder, legacy):
    tokenizer = load_tokenizer(folder, legacy=legacy)
    for text in LINES:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_text_after_a_special_token(folder):
    """Legacy: as if a text began there, so with the dummy prefix."""
    assert load_tokenizer(folder).tokenize("a</s>USER")[1:3] == ["</s>", "\u2581USER"]
    assert load_tokenizer(folder, legacy=False).tokenize("a</s>USER")[2] != "\u2581USER"


def test_chunks_around_an_image(folder, model):
    ids = tokenizer_image_token("USER: <image>\nWhat? ASSISTANT:", load_tokenizer(folder))
    assert ids == [1, *model.encode("USER: "), -200, *model.encode("\nWhat? ASSISTANT:")]


def test_bos_and_eos_as_asked(folder, model):
    tokenizer = load_tokenizer(folder, add_bos_token=False, add_eos_token=True)
    assert tokenizer("red").input_ids == [*model.encode("red"), 2]


def test_added_tokens_survive_saving(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.add_tokens(["<im_start>"], special_tokens=True) == 1
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, LlamaTokenizer) and len(again) == len(tokenizer) == 421
    assert again("a<im_start>b").input_ids == tokenizer("a<im_start>b").input_ids
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "LlamaTokenizer"


def test_batches_are_padded(folder):
    batch = load_tokenizer(folder)(["red", "What is it?"], padding=True, return_tensors="pt")
    assert batch.input_ids[0, -1] == 0 and batch.attention_mask[0].tolist()[-1] == 0


def test_folder_with_tokenizer_json_only(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    fast = Tokenizer(models.WordLevel({"<unk>": 0, "red": 1, "apple": 2}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path)("red apple").input_ids == [1, 2]


def test_converted_folder_without_the_sentencepiece_model(folder, model, tmp_path):
    from transformers import LlamaTokenizer as TransformersLlamaTokenizer

    TransformersLlamaTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.model").exists()
    tokenizer = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert tokenizer(text).input_ids == [1, *model.encode(text)], repr(text)


def test_no_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither tokenizer.model nor tokenizer.json"):
        load_tokenizer(tmp_path)


def test_missing_packages_are_named(folder, monkeypatch):
    monkeypatch.setattr(module, "installed", lambda name: name == "sentencepiece")
    with pytest.raises(ImportError, match="needs google.protobuf: pip install sentencepiece protobuf"):
        load_tokenizer(folder)


def test_what_is_put_around_a_text_survives_saving(folder, tmp_path):
    load_tokenizer(folder, add_bos_token=False, add_eos_token=True).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("red").input_ids == load_tokenizer(folder)("red").input_ids[1:] + [2]


@pytest.mark.parametrize("content", [b"", b"garbage" * 50, None])
def test_a_damaged_sentencepiece_model_is_named(folder, tmp_path, content):
    whole = (folder / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="tokenizer.model.*fetch it again"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"model": 5}', '{"model": {"type": "BPE", "vocab": 3, "merges": []}}']
)
def test_a_damaged_tokenizer_json_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="tokenizer.json.*fetch it again"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize("content", ["", "[]", "5", "[" * 5000])
def test_damaged_settings_are_named(folder, tmp_path, name, content):
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}.*fetch it again"):
        load_tokenizer(tmp_path)

"""The language model: a Llama and its tokenizer, out of a GGUF file or a folder of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from llava.model.checkpoint import errors_naming, no_loading_report, stored_tensors
from llava.model.checkpoint import read_json as read_config
from llava.utils import installed

END, PAD = "<|im_end|>", "<|endoftext|>"  # ChatML's end of a turn, and a token that no dialogue holds
# What a file says about itself and not about the model.
_OF_THE_FILE = (
    "quantization_config",
    "transformers_version",
    "_name_or_path",
    "_model_name_or_path",
    "transformers.js_config",
)


@dataclass(frozen=True)
class Language:
    """A language model taken out of its file: config, tensors by the names of ``LlamaForCausalLM``, tokenizer."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: PreTrainedTokenizerFast


def language_from_gguf(file: Path) -> Language:
    """The Llama of a GGUF file, its rounded weights as the numbers they stand for.

    Raises ImportError without the package gguf, ValueError naming a damaged file or one that holds another model.
    """
    if not installed("gguf"):
        raise ImportError(f"reading {file} needs gguf: pip install 'llava-condense[things]'")
    with errors_naming(file):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        with no_loading_report():
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    return _language(model.config.to_dict(), dict(model.state_dict()), tokenizer, file)


def language_from_folder(folder: Path) -> Language:
    """The Llama of a folder that transformers wrote, such as a download from the hub. Raises ValueError for another model."""
    with errors_naming(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    tensors = dict(stored_tensors(folder, lambda name: True))
    return _language(read_config(folder / "config.json"), tensors, tokenizer, folder)


def _language(config: dict[str, Any], tensors: dict[str, Tensor], tokenizer: Any, source: Path) -> Language:
    if config.get("model_type") != "llama":
        raise ValueError(f"{source} holds a {config.get('model_type')}; give a Llama")
    config = {name: value for name, value in config.items() if name not in _OF_THE_FILE}
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    return Language(config, tensors, _chatml(tokenizer, config["vocab_size"], source))


def _chatml(tokenizer: Any, rows: int, source: Path) -> PreTrainedTokenizerFast:
    """The tokenizer with the marks that a ChatML dialogue needs, each with one of the model's rows.

    It has no BOS: ``<|im_start|>``, which the files name, opens every turn and is part of the template. The padding is not the
    end of a turn, or training would hide the ends from the model.
    """
    vocabulary = tokenizer.get_vocab()
    # A mark that no text of a GGUF file has may be added on reading, after the last row.
    missing = [mark for mark in (END, PAD) if vocabulary.get(mark, rows) >= rows]
    if missing:
        raise ValueError(f"the tokenizer of {source} has no {' and no '.join(missing)}; give one with ChatML's marks")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )

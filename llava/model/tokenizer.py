"""The tokenizer of a checkpoint: Llama's and Mistral's as sentencepiece computes it, byte-level BPE as its file says.

transformers 5 has no slow LlamaTokenizer any more, and both of its replacements get LLaVA's prompts wrong: the text that
follows `<image>` is tokenised on its own and begins with a space or a newline, and there they differ from
sentencepiece.
"""

from __future__ import annotations

from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.tokenization_utils_sentencepiece import SPIECE_UNDERLINE, SentencePieceBackend

from llava.files import write_json
from llava.model.checkpoint import errors_naming, read_json
from llava.utils import installed


class LlamaTokenizer(SentencePieceBackend):
    """A sentencepiece model with BOS in front; named as the class that published checkpoints ask for.

    vocab_file: the `tokenizer.model`. legacy: True tokenises what follows a special token as if a text began there
    ("</s>USER" gives "▁USER"), False does not ("USER"); published LLaVA checkpoints say which. add_bos_token,
    add_eos_token: what is put around a text.
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str,
        unk_token: str = "<unk>",
        bos_token: str = "<s>",
        eos_token: str = "</s>",
        pad_token: str | None = None,
        add_bos_token: bool = True,
        add_eos_token: bool = False,
        legacy: bool = True,
        clean_up_tokenization_spaces: bool = False,
        **kwargs: Any,
    ):
        self.add_bos_token = add_bos_token
        self.add_eos_token = add_eos_token
        kwargs.setdefault("special_tokens_pattern", "none")
        super().__init__(
            vocab_file=vocab_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            legacy=legacy,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            **kwargs,
        )

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """The pieces of a text, without BOS."""
        if self.legacy or not text:
            return super().tokenize(text, **kwargs)
        # sentencepiece's own dummy prefix is off here, so that only the text's beginning gets one.
        pieces = super().tokenize(SPIECE_UNDERLINE + text.replace(SPIECE_UNDERLINE, " "), **kwargs)
        if pieces[:1] == [SPIECE_UNDERLINE] and len(pieces) > 1 and pieces[1] in self.all_special_tokens:
            return pieces[1:]
        return pieces

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of these pieces; special and added tokens stand as they are written."""
        if not self.legacy and tokens and tokens[0].startswith(SPIECE_UNDERLINE):
            tokens = [tokens[0][1:], *tokens[1:]]
        whole = {*self.all_special_tokens, *self.added_tokens_encoder}
        parts: list[str] = []
        for is_whole, run in groupby(tokens, key=whole.__contains__):
            if not is_whole:
                parts.append(self.sp_model.decode(list(run)))
                continue
            if self.legacy and parts:
                parts.append(" ")
            parts.extend(run)
        return "".join(parts)

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """As transformers, which leaves out what is put around a text."""
        written = super().save_pretrained(save_directory, *args, **kwargs)
        file = Path(save_directory) / "tokenizer_config.json"
        ends = {"add_bos_token": self.add_bos_token, "add_eos_token": self.add_eos_token}
        write_json(file, read_json(file) | ends)
        return written

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """BOS and EOS, each if asked for, around every text."""
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        before: list[Any] = [self.bos_token_id] if self.add_bos_token else []
        after: list[Any] = [self.eos_token_id] if self.add_eos_token else []
        return [token for text in texts for token in (*before, *text, *after)]


def load_tokenizer(folder: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder.

    folder: holds `tokenizer.model` (read by sentencepiece); or `tokenizer.json`, as Llama-3's, Qwen2's and some converted
    checkpoints do; or Qwen2's `vocab.json` and `merges.txt`. kwargs: override what `tokenizer_config.json` says. Raises FileNotFoundError
    where neither file is there, ValueError naming a damaged one, ImportError naming the packages that reading `tokenizer.model` needs.
    """
    folder = Path(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    if (folder / "tokenizer.model").is_file():
        missing = [name for name in ("sentencepiece", "google.protobuf") if not installed(name)]
        if missing:
            raise ImportError(
                f"reading {folder / 'tokenizer.model'} needs {' and '.join(missing)}: pip install sentencepiece protobuf"
            )
        with errors_naming(folder / "tokenizer.model"):
            return LlamaTokenizer.from_pretrained(folder, **kwargs)
    if (folder / "tokenizer.json").is_file():
        with errors_naming(folder / "tokenizer.json"):
            return _with_sentencepiece_blanks(PreTrainedTokenizerFast.from_pretrained(folder, **kwargs))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        with errors_naming(folder / "vocab.json"):
            return Qwen2Tokenizer.from_pretrained(folder, **kwargs)
    raise FileNotFoundError(
        f"no tokenizer in {folder}: neither tokenizer.model nor tokenizer.json is there, nor vocab.json with merges.txt"
    )


def _with_sentencepiece_blanks(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Puts the dummy prefix where sentencepiece does: transformers 5 writes files that omit it before a space."""
    backend = tokenizer.backend_tokenizer
    split = backend.pre_tokenizer
    if isinstance(split, pre_tokenizers.Metaspace) and split.prepend_scheme == "always" and backend.normalizer is None:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPIECE_UNDERLINE), normalizers.Replace(" ", SPIECE_UNDERLINE)]
        )
        backend.pre_tokenizer = None
    return tokenizer

"""Flags that every command line shares: which model, and how its visual tokens are reduced."""

from __future__ import annotations

import argparse
import inspect
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model
from llava.model.language_model.himap_configuration_llama import REDUCTION_KNOBS, LlamaConfig


def add_model_flags(parser: ArgumentParser, model_path: str | None = None) -> None:
    """Adds --model-path, --model-base, --conv-mode, --device, --dtype, --attn-implementation, --load-8bit, --load-4bit.

    model_path: its default; None makes it required. Every flag may also be written with underscores.
    """
    group = parser.add_argument_group("model")

    def add(name: str, **options: Any) -> None:
        group.add_argument(*spellings(name), **options)

    add("model_path", required=model_path is None, default=model_path, help="folder or hub name of the model")
    add("model_base", help="the language model that a LoRA or a projector-only folder belongs to")
    add("conv_mode", help="prompt template (default: by the model's name)")
    add("device", help="cuda, cuda:1, cpu (default: cuda where there is one)")
    add("dtype", help="float16, bfloat16, float32 (default: float16 on cuda, float32 on cpu)")
    add("attn_implementation", help="eager, sdpa or flash_attention_2 (default: what transformers chooses)")
    add("load_8bit", action="store_true", help="8 bit weights through bitsandbytes")
    add("load_4bit", action="store_true", help="4 bit weights through bitsandbytes")


def add_reduction_flags(parser: ArgumentParser) -> None:
    """Adds one flag for every reduction knob of the config, e.g. --reduction fastv@2:64 or --use-fast-v.

    A switch also has its opposite (--no-use-fast-v). A flag that is not given leaves the model's config as it is.
    """
    group = parser.add_argument_group(
        "reduction", "a plan such as fastv@2:64 or a YAML file, or the knobs of one method"
    )
    hints = inspect.get_annotations(LlamaConfig, eval_str=True)
    for name in REDUCTION_KNOBS:
        kind = _kind(hints[name])
        how: dict[str, Any] = {"action": BooleanOptionalAction} if kind is bool else {"type": kind}
        group.add_argument(*spellings(name), default=None, help=f"default {getattr(LlamaConfig, name)}", **how)


def reduction_kwargs(args: Namespace) -> dict[str, Any]:
    """The reduction flags that were given, as keywords of `load_pretrained_model`."""
    values = {name: getattr(args, name, None) for name in REDUCTION_KNOBS}
    return {name: value for name, value in values.items() if value is not None}


def load_from_flags(args: Namespace) -> tuple[Any, Any, Any, int]:
    """`load_pretrained_model` with what `add_model_flags` and `add_reduction_flags` have read.

    Flags an older caller's namespace does not have count as not given.
    """
    return load_pretrained_model(
        args.model_path,
        getattr(args, "model_base", None),
        get_model_name_from_path(args.model_path),
        load_8bit=getattr(args, "load_8bit", False),
        load_4bit=getattr(args, "load_4bit", False),
        device=getattr(args, "device", None),
        torch_dtype=getattr(args, "dtype", None),
        attn_implementation=getattr(args, "attn_implementation", None),
        **reduction_kwargs(args),
    )


def spellings(name: str) -> tuple[str, ...]:
    """`--use-fast-v` and `--use_fast_v`; one where they are the same."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def _kind(hint: Any) -> Any:
    """What reads a flag of this type: bool, int, `number`, or str; lists are written with commas."""
    members = set(get_args(hint)) if get_origin(hint) is UnionType else {hint}
    if str in members:
        one = number_or_word if float in members else str
    elif float in members or members == {list, NoneType}:
        one = number
    else:
        one = bool if bool in members else int
    if list not in members:
        return one

    def entries(text: str) -> Any:
        return [one(part) for part in text.split(",")] if members == {list, NoneType} or "," in text else one(text)

    return entries


def number_or_word(text: str) -> int | float | str:
    """A number where the text is one, else the text."""
    try:
        return number(text)
    except argparse.ArgumentTypeError:
        return text


def number(text: str) -> int | float:
    """An int where the text is one, else a float; a fraction and a count are different things to a plan."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None

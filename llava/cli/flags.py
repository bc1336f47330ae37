"""Flags that every command line shares: which model, and how its visual tokens are reduced."""

from __future__ import annotations

import argparse
import inspect
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from llava.model.language_model.reduction_knobs import REDUCTION_KNOBS, ReductionKnobs
from llava.reduction.registry import load_plugin

from .loading import Loaded, load_model
from .settings import ModelSpec, PlanSpec


def add_model_flags(parser: ArgumentParser, model_path: str | None = None) -> None:
    """Adds --model-path, --model-base, --conv-mode, --device, --dtype, --attn-implementation, --load-8bit, --load-4bit.

    model_path: its default; None makes it required. Every flag may also be written with underscores.
    """
    group = parser.add_argument_group("model")

    def add(name: str, **options: Any) -> None:
        group.add_argument(*spellings(name), **options)

    add("model_path", required=model_path is None, default=model_path, help="folder or hub name of the model")
    add("model_base", help="the language model that a LoRA or a projector-only folder belongs to")
    add("conv_mode", help="prompt template (default: the checkpoint's own, else by the model's name)")
    add("device", help="cuda, cuda:1, cpu (default: cuda where there is one)")
    add("dtype", help="float16, bfloat16, float32 (default: float16 on cuda, float32 on cpu)")
    add("attn_implementation", help="eager, sdpa or flash_attention_2 (default: what transformers chooses)")
    add("load_8bit", action="store_true", help="8 bit weights through bitsandbytes")
    add("load_4bit", action="store_true", help="4 bit weights through bitsandbytes")


def add_reduction_flags(parser: ArgumentParser) -> None:
    """Adds one flag for every reduction knob of the config, e.g. --reduction fastv@2:64 or --use-fast-v.

    A switch also has its opposite (--no-use-fast-v). A flag that is not given leaves the model's config as it is. The knobs of
    single methods are listed by --help-knobs and not by --help, which shows one line per flag.
    """
    parser.formatter_class = Help
    group = parser.add_argument_group("reduction")
    group.add_argument(
        "--plugin", action=LoadPlugin, metavar="MODULE", help="a module or a .py file that registers methods of its own"
    )
    group.add_argument(
        *spellings("reduction"),
        metavar="PLAN",
        help="such as fastv@2:64, or a YAML file (default: the checkpoint's own)",
    )
    listing = "list the flags of single methods, such as --use-fast-v"
    group.add_argument("--help-knobs", action=Listing, listed=knob_parser, help=listing)
    known = len(parser._actions)
    _add_knobs(group)
    for action in parser._actions[known:]:
        action.help = SUPPRESS


def knob_parser() -> ArgumentParser:
    """The flags of single methods alone."""
    parser = ArgumentParser(add_help=False, formatter_class=Help)
    about = "what single methods are set by, in place of --reduction; each is a key of the checkpoint's config as well"
    _add_knobs(parser.add_argument_group("knobs", about))
    return parser


def _add_knobs(group: argparse._ArgumentGroup) -> None:
    hints = inspect.get_annotations(ReductionKnobs, eval_str=True)
    for name in REDUCTION_KNOBS:
        if name != "reduction":
            kind = _kind(hints[name])
            how: dict[str, Any] = {"action": BooleanOptionalAction} if kind is bool else {"type": kind}
            group.add_argument(*spellings(name), default=None, help=f"default: {getattr(ReductionKnobs, name)}", **how)


class Help(argparse.RawDescriptionHelpFormatter):
    """Every flag on a line of its own, in the first of its spellings."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, max_help_position=36, **options)

    def _format_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None) -> str:
        needed = [action for action in actions if action.required or not action.option_strings]
        shown = super()._format_usage(usage, needed, [], prefix).rstrip()
        return shown + ("" if usage else " [FLAG ...]") + "\n\n"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = next((one for one in action.option_strings if len(one) > 2), action.option_strings[0])
        if isinstance(action, BooleanOptionalAction):
            return name.replace("--", "--[no-]", 1)
        return name if action.nargs == 0 else f"{name} {self._format_args(action, action.dest.upper())}"


class Listing(argparse.Action):
    """A flag such as --help-knobs: prints the help of flags that --help leaves out, and ends the process as --help does."""

    def __init__(self, option_strings: Sequence[str], dest: str, listed: Callable[[], ArgumentParser], help: str):
        super().__init__(option_strings, SUPPRESS, nargs=0, default=SUPPRESS, help=help)
        self.listed = listed

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        listed = self.listed()
        listed.usage = f"{parser.prog} ..."
        listed.print_help()
        parser.exit()


class LoadPlugin(argparse.Action):
    """Imports a plug-in as soon as it is read, so that the plans after it may name its methods."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        try:
            load_plugin(values)
        except ValueError as error:
            parser.error(str(error))
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), values])


def model_spec(options: Namespace, usual_conv_mode: str | None = None) -> ModelSpec:
    """The model of a command line with the flags of `add_model_flags`; those that the namespace lacks count as not given.

    usual_conv_mode: the template where neither the command line nor the checkpoint names one (default: by the model's name).
    """
    flags = vars(options)
    if flags.get("load_8bit") and flags.get("load_4bit"):
        raise ValueError("--load-8bit and --load-4bit are both given; choose one of them")
    return ModelSpec(
        path=flags["model_path"],
        base=flags.get("model_base"),
        conv_mode=flags.get("conv_mode"),
        usual_conv_mode=usual_conv_mode,
        device=flags.get("device"),
        dtype=flags.get("dtype"),
        bits=8 if flags.get("load_8bit") else 4 if flags.get("load_4bit") else None,
        attn=flags.get("attn_implementation"),
    )


def reduction_kwargs(options: Namespace) -> dict[str, Any]:
    """The reduction flags that were given, as keywords of `load_pretrained_model`."""
    values = {name: vars(options).get(name) for name in REDUCTION_KNOBS}
    return {name: value for name, value in values.items() if value is not None}


def plan_spec(options: Namespace) -> PlanSpec:
    """The plans of a command line that has the flags of `add_reduction_flags`; --reduction may be one plan or a list."""
    flags, knobs = vars(options), reduction_kwargs(options)
    reductions = knobs.pop("reduction", ())
    return PlanSpec(
        reductions=(reductions,) if isinstance(reductions, str) else tuple(reductions),
        knobs=knobs,
        match=flags.get("match"),
        controls=not flags.get("no_controls"),
    )


def completed(options: object, flags: ArgumentParser) -> Namespace:
    """All settings of a command line, from an object with some of them as attributes, as LLaVA's callers pass it.

    A namespace, or `type("Args", (), {...})()`. The other settings take their defaults; a string is read as the flag
    would read it. Raises ValueError naming an attribute that is missing.
    """
    settings = Namespace()
    for action in flags._actions:
        if action.dest in ("help", SUPPRESS):
            continue
        if action.required and not hasattr(options, action.dest):
            raise ValueError(f"args.{action.dest} is missing; it stands for the flag {action.option_strings[0]}")
        value = getattr(options, action.dest, action.default)
        if isinstance(value, str) and callable(action.type):
            value = action.type(value)
        setattr(settings, action.dest, value)
    return settings


def load_from_flags(options: Namespace) -> Loaded:
    """The model of a command line, under the plan that its reduction flags spell."""
    return load_model(model_spec(options), **reduction_kwargs(options))


def spellings(name: str) -> tuple[str, ...]:
    """`--use-fast-v` and `--use_fast_v`; one where they are the same."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def _kind(hint: Any) -> Any:
    """The function that reads a flag of this type: bool, int, `number`, or str; lists are written with commas."""
    members = set(get_args(hint)) if get_origin(hint) is UnionType else {hint}
    if str in members:
        read_entry = number_or_word if float in members else str
    elif float in members or members == {list, NoneType}:
        read_entry = number
    else:
        read_entry = bool if bool in members else int
    if list not in members:
        return read_entry

    def entries(text: str) -> Any:
        return (
            [read_entry(part) for part in text.split(",")]
            if members == {list, NoneType} or "," in text
            else read_entry(text)
        )

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

"""The documented flags that every experiment has, and the two ends of its command line: reading it, writing what came out."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from llava.cli import console
from llava.cli.flags import add_model_flags, add_reduction_flags, plan_spec, spellings
from llava.eval.ask.plans import plans_from
from llava.files import write_json
from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.knobs import SPANS
from llava.reduction import Stage

logger = logging.getLogger(__name__)

MODEL = "liuhaotian/llava-v1.5-7b"  # the documents' model
DEPTH = 32  # its layers: what the documents' layer numbers presume


def parser(
    description: str,
    output_file: str,
    output_plot: str | None = None,
    lengths: tuple[str, str] = SPANS["use_fast_v"],
) -> argparse.ArgumentParser:
    """A parser with the flags of model, questions, results and controls.

    ``description`` is shown as it is written. ``output_file`` and ``output_plot`` are the documented names of JSON and
    figure, taken in the working directory (None: no figure). ``lengths`` are the script's names for where the picture lies
    in the prompt and how long it is.
    """
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, conflict_handler="resolve"
    )
    add_question_flags(flags)
    group = flags.add_argument_group("results")

    def add(name: str, **options: Any) -> None:
        group.add_argument(*spellings(name), **options)

    add("results", type=Path, help="folder of the runs, which a stopped experiment goes on from (default: by its name)")
    add("output_file", type=Path, default=Path(output_file), help=f"JSON to write (default: {output_file})")
    if output_plot:
        add("output_plot", type=Path, default=Path(output_plot), help=f"figure to write (default: {output_plot})")
    add("no_controls", action="store_true", help="neither the random control nor the question without its picture")
    more = "three random seeds instead of one, and grid, pool and downsample at the same mean cost"
    add("all_controls", action="store_true", help=more)
    add("retry_failed", action="store_true", help="ask the questions again whose picture was unreadable")
    for name in lengths:
        add(name, type=int, help="documented; read from the prompt, and an error where the prompt says otherwise")
    flags.set_defaults(lengths=[lengths])
    return flags


def add_question_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the documented flags of model and questions; ``sweep.eval_settings`` reads them."""
    add_model_flags(flags, MODEL)
    group = flags.add_argument_group("questions")

    def add(name: str, **options: Any) -> None:
        group.add_argument(*spellings(name), **options)

    add("question_file", type=Path, required=True, help="the questions, or the folder of the benchmark")
    add("image_folder", type=Path, help="the pictures (default: where the benchmark keeps them)")
    add("base_dir", type=Path, help="the true answers, where they are apart (default: where the benchmark keeps them)")
    add("num_samples", type=int, default=-1, help="at most so many questions, whole pictures evenly spread (-1: all)")
    add("num_chunks", type=int, default=1, help="divide the pictures into so many shares (default: 1)")
    add("chunk_idx", type=int, default=0, help="and ask those of this one, from 0 (default: 0)")
    single = "ask for the option's letter, or for a word or phrase, alone, as the benchmark does (default: yes)"
    add("single_pred_prompt", action=argparse.BooleanOptionalAction, default=True, help=single)
    add("batch_size", type=int, default=8, help="questions at once (default: 8)")


def add_layer_flags(
    flags: argparse.ArgumentParser, start: int, end: int = DEPTH, names: tuple[str, str] = ("start_layer", "end_layer")
) -> None:
    """Adds the two ends of a sweep over layers; defaults are for 32 layers and in proportion for another depth.

    At layer K: layers before K see every visual token, K and after those that are kept.
    """
    group = flags.add_argument_group(
        "layers", "at layer K: layers before it see every visual token, K and after those kept"
    )
    for name, dest, value in zip(names, ("start_layer", "end_layer"), (start, end)):
        which = f"default: {value} of {DEPTH} layers, in proportion for another depth"
        group.add_argument(*spellings(name), dest=dest, type=int, help=which)
    flags.set_defaults(layer_names=names, layer_ends=(start, end))


def add_plan_flags(flags: argparse.ArgumentParser) -> None:
    """Adds every reduction flag; ``one_plan`` reads them."""
    add_reduction_flags(flags)
    flags.set_defaults(lengths=[*flags.get_default("lengths"), *dict.fromkeys(SPANS.values())])


def one_plan(given: argparse.Namespace, config: LlamaConfig) -> list[Stage]:
    """The plan that the reduction flags spell, whose knobs are set in ``config``; empty when none is given."""
    spec = plan_spec(given)
    for name, value in spec.knobs.items():
        setattr(config, name, value)
    (plan,) = plans_from(spec, config)
    return plan


def launch(
    flags: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], arguments: Sequence[str] | None
) -> int:
    """Read a command line and do its work; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return console.launch(flags, work, arguments)


def spelled(name: str) -> str:
    """A flag as it is typed."""
    return spellings(name)[0]


def save(given: argparse.Namespace, content: dict, figure: Figure | None = None) -> None:
    """Write the JSON, and the figure where there is one, to the files of a command line."""
    write_json(given.output_file, content)
    logger.info("wrote %s", given.output_file)
    if figure is not None:
        figure.savefig(given.output_plot)
        logger.info("wrote %s", given.output_plot)

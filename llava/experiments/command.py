"""The documented flags that every experiment has, and the two ends of its command line: reading it, writing the results."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from llava.cli.flags import add_reduction_flags, spellings
from llava.cli.questions import add_question_flags, question_settings
from llava.cli.settings import PlanSpec
from llava.eval.ask.plans import plans_from
from llava.files import write_json
from llava.model.language_model.knobs import SPANS
from llava.model.language_model.reduction_knobs import ReductionKnobs
from llava.reduction import Stage

from .settings import ExperimentSettings, LayerEnds

logger = logging.getLogger(__name__)

DEPTH = 32  # layers of the documents' model: what their layer numbers presume
LAYER_NAMES = ("start_layer", "end_layer")


def parser(
    description: str | None,
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

    add("results", type=Path, help="folder of the runs, from which a stopped experiment resumes (default: by its name)")
    add("output_file", type=Path, default=Path(output_file), help=f"JSON to write (default: {output_file})")
    if output_plot:
        add("output_plot", type=Path, default=Path(output_plot), help=f"figure to write (default: {output_plot})")
    add("no_controls", action="store_true", help="leave out the random control and the question without its picture")
    more = "three random seeds instead of one, and grid, pool and downsample at the same mean cost"
    add("all_controls", action="store_true", help=more)
    add("retry_failed", action="store_true", help="ask again the questions whose picture was unreadable")
    for name in lengths:
        add(name, type=int, help="accepted as documented; the prompt's own value is used")
    flags.set_defaults(lengths=[lengths])
    return flags


def add_layer_flags(
    flags: argparse.ArgumentParser, start: int, end: int = DEPTH, names: tuple[str, str] = LAYER_NAMES
) -> None:
    """Adds the two ends of a sweep over layers; defaults are for 32 layers and in proportion for another depth.

    At layer K: layers before K see every visual token, K and after those that are kept.
    """
    group = flags.add_argument_group(
        "layers", "at layer K: layers before it see every visual token, K and after those kept"
    )
    for name, dest, value in zip(names, LAYER_NAMES, (start, end), strict=True):
        which = f"default: {value} of {DEPTH} layers, in proportion for another depth"
        group.add_argument(*spellings(name), dest=dest, type=int, help=which)
    flags.set_defaults(layer_names=names, layer_ends=(start, end))


def layer_ends(options: argparse.Namespace) -> LayerEnds:
    """What the flags of ``add_layer_flags`` say."""
    return LayerEnds(options.start_layer, options.end_layer, options.layer_ends, options.layer_names)


def add_plan_flags(flags: argparse.ArgumentParser) -> None:
    """Adds every reduction flag; ``one_plan`` takes what ``llava.cli.flags.plan_spec`` reads of them."""
    add_reduction_flags(flags)
    flags.set_defaults(lengths=[*flags.get_default("lengths"), *dict.fromkeys(SPANS.values())])


def experiment_settings(
    task: str, options: argparse.Namespace, output_file: Path | None = None, output_plot: Path | None = None
) -> ExperimentSettings:
    """The experiment of a command line with the flags of ``parser``; files are as given here where no flag names them."""
    flags = vars(options)
    typed = [
        {name: flags[name] for name in names if flags.get(name) is not None}
        for names in zip(*options.lengths, strict=True)
    ]
    file = options.output_file or output_file
    if file is None:
        raise ValueError("--output-file is missing; give the JSON to write")
    return ExperimentSettings(
        evaluation=replace(question_settings(task, options), results=options.results),
        output_file=file,
        output_plot=flags.get("output_plot") or output_plot,
        controls="none" if options.no_controls else "all" if options.all_controls else "usual",
        typed_starts=typed[0],
        typed_lengths=typed[1],
    )


def one_plan(spec: PlanSpec, config: ReductionKnobs) -> list[Stage]:
    """The one plan of a command line, for a model with this config; empty when none is given."""
    (plan,) = plans_from(spec, config)
    return plan


def save(settings: ExperimentSettings, content: dict, figure: Figure | None = None) -> None:
    """Write the JSON, and the figure where there is one."""
    write_json(settings.output_file, content)
    logger.info("wrote %s", settings.output_file)
    if figure is not None and settings.output_plot is not None:
        figure.savefig(settings.output_plot)
        logger.info("wrote %s", settings.output_plot)

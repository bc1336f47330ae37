"""HiMAP on ScienceQA with the picture taken away from a layer on: the sweep over that cut-off."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava.cli.console import launch
from llava.cli.flags import plan_spec
from llava.cli.settings import PlanSpec
from llava.eval.ask.plans import with_knobs
from llava.eval.report.panels import draw
from llava.mm_utils import get_model_name_from_path
from llava.model.language_model.reduction_knobs import METHOD_FLAGS

from .command import add_plan_flags, experiment_settings, one_plan, save
from .command import parser as common
from .figure import accuracy_panel
from .layers import Command
from .settings import ExperimentSettings
from .sweep import Experiment, cut
from .tables import accuracy_table, baseline, flat_table

PUBLISHED = {"txt": (2, 288), "img": (8, 72)}  # layer and rank of HiMAP's two stages
LAST = 12


@dataclass(frozen=True)
class CutOffs:
    """The cut-offs of a sweep, both included; 0 cuts nothing, ``last`` None is the documented one in proportion."""

    first: int = 0
    last: int | None = None


def parser(description: str) -> argparse.ArgumentParser:
    """The common flags, every reduction flag, and the two ends of the sweep."""
    flags = common(description, "himap_cutoff_sweep_TAG.json", "himap_cutoff_sweep_TAG.png")
    add_plan_flags(flags)
    flags.set_defaults(output_file=None, output_plot=None)
    add = flags.add_argument_group("sweep").add_argument
    add("--tag", help="tag in the names of the files (default: the model's name)")
    add("--output-dir", "--output_dir", type=Path, default=Path("."), help="folder to write them to (default: here)")
    add("--cutoff-start", "--cutoff_start", type=int, default=0, help="first cut-off (default: 0, which cuts nothing)")
    add(
        "--cutoff-end",
        "--cutoff_end",
        type=int,
        help=f"last cut-off (default: {LAST} of 32 layers, in proportion otherwise)",
    )
    return flags


def run(settings: ExperimentSettings, spec: PlanSpec, cut_offs: CutOffs) -> None:
    """Evaluate, write JSON and figure. Raises ValueError and OSError that name the flag."""
    if spec.knobs.get("cut_off_layer") is not None:
        raise ValueError(
            f"--cut-off-layer {spec.knobs['cut_off_layer']} is what is swept; give --cutoff-start and --cutoff-end"
        )
    experiment = Experiment("himap_cutoff", settings)
    first, last = cut_offs.first, cut_offs.last
    last = experiment.scaled(LAST) if last is None else last
    if not 0 <= first <= last <= experiment.layers:
        raise ValueError(
            f"--cutoff-start {first} and --cutoff-end {last} must be 0 <= start <= end <= {experiment.layers}, the layers"
        )
    spec = completed(spec, experiment)
    plan = one_plan(spec, experiment.config)
    curve = {at: cut(plan, at, experiment.layers) if at else plan for at in range(first, last + 1)}
    method = "himap" if with_knobs(experiment.config, spec.knobs).use_hmap_v else "cut-off"
    sweep = experiment.sweep({method: curve})
    content = {**flat_table(sweep, accuracy_table), **baseline(sweep)}
    title = f"ScienceQA, {experiment.about}: {method}, no picture from a layer on"
    save(settings, content, draw([accuracy_panel(sweep)], title, "first layer without visual tokens (0: none is)"))


def completed(spec: PlanSpec, experiment: Experiment) -> PlanSpec:
    """The plan whose tokens are cut off: that of the flags, HiMAP's published one where they leave it open."""
    names_plan = spec.reductions or any(spec.knobs.get(flag) is not None for flag in METHOD_FLAGS)
    if names_plan and not spec.knobs.get("use_hmap_v"):
        return spec
    published = {
        f"hmap_v_attn_{which}_{name}": value
        for which, (layer, rank) in PUBLISHED.items()
        for name, value in (("layer", experiment.scaled(layer)), ("rank", rank))
    }
    return replace(spec, knobs={"use_hmap_v": True, **published, **spec.knobs})


def command(description: str | None) -> tuple[Callable[[], argparse.ArgumentParser], Command]:
    """The parser and the main function of a script with this description."""

    def script_parser() -> argparse.ArgumentParser:
        return parser(description or "")

    def work(options: argparse.Namespace) -> None:
        stem = f"himap_cutoff_sweep_{options.tag or get_model_name_from_path(options.model_path)}"
        files = [options.output_dir / f"{stem}.{ending}" for ending in ("json", "png")]
        settings = experiment_settings("scienceqa", options, *files)
        run(settings, plan_spec(options), CutOffs(options.cutoff_start, options.cutoff_end))

    def main(arguments: Sequence[str] | None = None) -> int:
        return launch(script_parser(), work, arguments)

    return script_parser, main

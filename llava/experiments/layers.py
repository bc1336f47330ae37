"""An experiment over layers as data: which plan stands at layer K, and in which form the results are written.

``llava.experiments.catalogue`` holds those of the documents; a script in ``scripts/`` names one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llava.cli.console import launch
from llava.cli.flags import spellings
from llava.eval.report.panels import Panel, draw
from llava.reduction import Stage

from .command import DEPTH, LAYER_NAMES, add_layer_flags, experiment_settings, layer_ends, parser, save
from .figure import accuracy_panel, halves_panel, total_panel
from .settings import Budget, ExperimentSettings, LayerEnds
from .sweep import Experiment, Sweep
from .tables import accuracy_table, baseline, flat_table, mme_table, tables

Options = Mapping[str, Any]
PlanAt = Callable[[int], list[Stage]]
Command = Callable[..., int]  # takes the words of a command line, by default those of the process

REDUCED_FROM = "layer from which on the tokens are reduced"


@dataclass(frozen=True)
class Flag:
    """A flag of an experiment's own; ``options`` as ``add_argument`` takes them."""

    name: str
    options: Options


@dataclass(frozen=True)
class LayerExperiment:
    """Plans at one layer after another.

    name: its folder of results. task: the benchmark. files: stem of the JSON and of the figure. first, last: documented
    layers, of 32. curves: by name a plan for every layer, from the options. title: what is done, from the options.
    flags: its own flags. budget: the flag that says how many tokens are kept. table: "flat" for one curve with the
    others under ``controls``, "named" for one table per curve. recorded: options that the JSON repeats. extra_panels:
    further drawings.
    """

    name: str
    task: Literal["mme", "scienceqa"]
    files: tuple[str, str]
    curves: Callable[[Options], dict[str, PlanAt]]
    title: Callable[[Options], str]
    first: int = 2
    last: int = DEPTH
    layer_names: tuple[str, str] = LAYER_NAMES
    flags: tuple[Flag, ...] = ()
    budget: str | None = None
    table: Literal["flat", "named"] = "flat"
    recorded: tuple[str, ...] = ()
    x_label: str = REDUCED_FROM
    extra_panels: Callable[[Sweep], list[Panel]] = lambda _sweep: []

    def parser(self, description: str) -> argparse.ArgumentParser:
        """The common flags, the two ends of the sweep, and the experiment's own."""
        flags = parser(description, f"{self.files[0]}.json", f"{self.files[1]}.png")
        add_layer_flags(flags, self.first, self.last, self.layer_names)
        group = flags.add_argument_group("selection")
        for flag in self.flags:
            group.add_argument(*spellings(flag.name), **flag.options)
        return flags

    def run(self, settings: ExperimentSettings, ends: LayerEnds, options: Options) -> None:
        """Evaluate, write JSON and figure. Raises ValueError and OSError that name the flag."""
        curves = self.curves(options)
        budget = Budget(self.budget, options[self.budget]) if self.budget else None
        experiment = Experiment(self.name, settings, budget)
        sweep = experiment.sweep({name: experiment.over_layers(ends, plan) for name, plan in curves.items()})
        title = f"{BENCHMARKS[self.task]}, {experiment.about}: {self.title(options)}"
        save(settings, self._content(sweep, options), draw(self._panels(sweep), title, self.x_label))

    def _content(self, sweep: Sweep, options: Options) -> dict:
        """The documented JSON."""
        table = mme_table if self.task == "mme" else accuracy_table
        recorded = {name: options[name] for name in self.recorded}
        content = flat_table(sweep, table) if self.table == "flat" else tables(sweep, table)
        return {**recorded, **content, **(baseline(sweep) if self.task == "scienceqa" else {})}

    def _panels(self, sweep: Sweep) -> list[Panel]:
        usual = [total_panel(sweep), halves_panel(sweep)] if self.task == "mme" else [accuracy_panel(sweep)]
        return [*usual, *self.extra_panels(sweep)]

    def command(self, description: str | None) -> tuple[Callable[[], argparse.ArgumentParser], Command]:
        """The parser and the main function of a script with this description."""

        def script_parser() -> argparse.ArgumentParser:
            return self.parser(description or "")

        def work(options: argparse.Namespace) -> None:
            names = [flag.name for flag in self.flags]
            own = {name: getattr(options, name) for name in names}
            self.run(experiment_settings(self.task, options), layer_ends(options), own)

        def main(arguments: Sequence[str] | None = None) -> int:
            return launch(script_parser(), work, arguments)

        return script_parser, main


BENCHMARKS = {"mme": "MME", "scienceqa": "ScienceQA"}

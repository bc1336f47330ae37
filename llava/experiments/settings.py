"""What an experiment is told: its questions, its controls, its files, and what was typed about the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llava.cli.settings import EvalSettings

Controls = Literal["none", "usual", "all"]


@dataclass(frozen=True)
class LayerEnds:
    """The two ends of a sweep over layers, both included.

    first, last: as given (None: the documented ones, in proportion to the model's depth). documented: those for 32 layers.
    names: the flags that an error names.
    """

    first: int | None
    last: int | None
    documented: tuple[int, int]
    names: tuple[str, str] = ("start_layer", "end_layer")


@dataclass(frozen=True)
class Budget:
    """How many tokens are kept, and the flag that an error names."""

    name: str
    tokens: int


@dataclass(frozen=True)
class ExperimentSettings:
    """An experiment's questions, controls and files.

    evaluation: the questions and the model; its ``results`` are the folder of the runs (None: by the experiment's name).
    output_file, output_plot: JSON and figure (None: no figure). controls: "none", "usual" (random and blind), or "all" (three
    seeds of random, and grid, pool and downsample at the same mean cost as well). typed: what was typed about the
    picture's place or length, by the flag's name; the prompt's own are used.
    """

    evaluation: EvalSettings
    output_file: Path
    output_plot: Path | None = None
    controls: Controls = "usual"
    typed_starts: Mapping[str, int] = field(default_factory=dict)
    typed_lengths: Mapping[str, int] = field(default_factory=dict)

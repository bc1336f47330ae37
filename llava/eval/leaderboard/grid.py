"""The grid of a leaderboard, read from YAML: models with their tasks, methods, and mean visual tokens.

``configs/leaderboard.yaml`` is one. Its fields:

===========  ========================================================================================================
``results``  where ``MODEL/TASK/PLAN`` is made for every run
``means``    mean visual tokens over the decoder layers, in the order in which they are measured
``models``   by name: ``path``, ``tasks``, and where wanted ``base``, ``conv_mode``, ``device``, ``dtype``, ``attn``,
             ``make`` and ``values``, what ``{layer}`` or another word in braces stands for in this model's plans
``methods``  ``before`` and ``inside`` the language model, each a mapping of names to plans without a budget
``controls`` likewise, chosen without looking; full, blind and random are always there
``seeds``    of the random control (3); and ``limit``, ``batch_size``, ``samples`` as ``llava eval`` has them
===========  ========================================================================================================

A task is a mapping: ``data``, its folder, with ``make``, the module and its arguments that make a missing one; or
``missing``, the reason why this model has no such task. With ``data`` it may have ``means``, those of the grid at which it
is asked, and ``elsewhere``, the reason why it is not at the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.cli.settings import PICTURES, EvalSettings, ModelSpec, check_least
from llava.files import excerpt, read_yaml, require_fields
from llava.reduction import did_you_mean
from llava.shipped import shipped

from ..ask.controls import SEEDS
from ..tasks.base import get_task

KINDS = ("before", "inside", "control")  # the language model; a control chooses without looking
BOUNDS = ("full", "blind")  # plans without a mean
RANDOM = "random"
SPEC = ("base", "conv_mode", "device", "dtype", "attn")
GRID = ("results", "means", "models", "methods", "controls", "seeds", "limit", "batch_size", "samples")


@dataclass(frozen=True)
class Method:
    """A row of the leaderboard: its name, its plan with words in braces and without a budget, and one of ``KINDS``.

    ``bound``: full or blind, for which no mean can be chosen.
    """

    name: str
    plan: str
    kind: str

    @property
    def bound(self) -> bool:
        return self.plan in BOUNDS


@dataclass(frozen=True)
class Benchmark:
    """A task of one model: its data, the module and the arguments that make them, or why there are none.

    ``means``: those at which it is asked, None for all; ``elsewhere``: why it is not at the others.
    """

    task: str
    data: Path | None
    make: str | None = None
    missing: str | None = None
    means: tuple[int, ...] | None = None
    elsewhere: str | None = None

    def asked_at(self, mean: int | None) -> bool:
        """Whether a cell of this mean is measured; full and blind, which have none, always are."""
        return mean is None or self.means is None or mean in self.means


@dataclass(frozen=True)
class Model:
    """A model of the grid under its name, with the values of the words in braces."""

    name: str
    spec: ModelSpec
    benchmarks: tuple[Benchmark, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    make: str | None = None


@dataclass(frozen=True)
class Grid:
    """Everything that is to be measured."""

    results: Path
    means: tuple[int, ...]
    models: tuple[Model, ...]
    methods: tuple[Method, ...]
    limit: int | None = None
    batch_size: int = 8
    samples: int = PICTURES

    def settings(self, model: Model, benchmark: Benchmark) -> EvalSettings:
        """What ``llava eval`` would be told for a model and a task. Raises ValueError for a task without data."""
        if benchmark.data is None:
            raise ValueError(f"task={benchmark.task!r} of {model.name} has no data: {benchmark.missing}")
        return EvalSettings(
            model=model.spec,
            task=benchmark.task,
            data=benchmark.data,
            limit=self.limit,
            results=self.folder(model, benchmark),
            batch_size=self.batch_size,
            samples=self.samples,
        )

    def folder(self, model: Model, benchmark: Benchmark) -> Path:
        """The folder of the runs of a model on a task."""
        return self.results / model.name / benchmark.task


def read_grid(file: str | Path) -> Grid:
    """The grid of a YAML file.

    Raises FileNotFoundError, and ValueError naming the file and the entry that is unknown, missing or of another kind.
    """
    try:
        return _grid(read_yaml(shipped(file)))
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from None


def _grid(content: Any) -> Grid:
    require_fields("the grid", content, {"results": str, "means": list, "models": dict, "methods": dict})
    _known("the grid", content, GRID)
    means = _means(content["means"])
    counts = {name: content.get(name, default) for name, default in (("seeds", len(SEEDS)), ("batch_size", 8))}
    counts["samples"], limit = content.get("samples", PICTURES), content.get("limit")
    for name, value in {**counts, **({} if limit is None else {"limit": limit})}.items():
        if type(value) is not int:
            raise ValueError(f"{name}={excerpt(value)} must be a whole number")
        check_least(0 if name == "samples" else 1, **{name: value})
    return Grid(
        results=Path(content["results"]),
        means=means,
        models=tuple(_model(name, entry, means) for name, entry in content["models"].items()),
        methods=_methods(content["methods"], content.get("controls") or {}, counts["seeds"]),
        limit=limit,
        batch_size=counts["batch_size"],
        samples=counts["samples"],
    )


def _means(means: Sequence[Any], place: str = "") -> tuple[int, ...]:
    """Means as they must be; ``place``: what an error begins with."""
    if not means or not all(type(mean) is int and mean > 0 for mean in means) or len(set(means)) < len(means):
        raise ValueError(f"{place}means={excerpt(means)} must be different whole numbers above 0")
    return tuple(means)


def _methods(methods: Mapping[str, Any], controls: Any, seeds: int) -> tuple[Method, ...]:
    """Full, blind, every seed of random and the other controls, then the methods."""
    _known("methods", methods, KINDS[:2])
    made = [Method(name, name, "control") for name in (*BOUNDS, RANDOM)]
    for kind, plans in (("control", controls), *((kind, methods.get(kind, {})) for kind in KINDS[:2])):
        if not isinstance(plans, dict) or not all(isinstance(plan, str) for plan in plans.values()):
            raise ValueError(f"{kind}: {excerpt(plans)} must be a mapping of names to plans")
        made += [Method(name, plan, kind) for name, plan in plans.items()]
    names = [method.name for method in made]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the method {twice[0]!r} is named twice; every method needs a name of its own")
    bounds, rest = made[: len(BOUNDS)], made[len(BOUNDS) + 1 :]
    return (*bounds, *(Method(RANDOM, f"random@features,seed={seed}", "control") for seed in range(seeds)), *rest)


def _model(name: str, entry: Any, means: Sequence[int]) -> Model:
    place = f"models: {name}"
    optional = dict.fromkeys(SPEC, str | None) | {"make": str | None, "values": dict | None}
    require_fields(place, entry, {"path": str, "tasks": dict, **optional})
    _known(place, entry, ("path", "tasks", *optional))
    return Model(
        name=_folder_name(name),
        spec=ModelSpec(entry["path"], **{key: entry.get(key) for key in SPEC}),
        benchmarks=tuple(_benchmark(f"{place}: {task}", task, about, means) for task, about in entry["tasks"].items()),
        values=entry.get("values") or {},
        make=entry.get("make"),
    )


def _benchmark(place: str, task: str, about: Any, means: Sequence[int]) -> Benchmark:
    get_task(task)  # an unknown one raises
    fields = dict.fromkeys(("data", "make", "missing", "elsewhere"), str | None) | {"means": list | None}
    require_fields(place, about, fields)
    _known(place, about, tuple(fields))
    if bool(about.get("data")) == bool(about.get("missing")):
        raise ValueError(f"{place} needs either data, its folder, or missing, the reason why there are none")
    asked = None if about.get("means") is None else _means(about["means"], f"{place}: ")
    if bool(asked) != bool(about.get("elsewhere")) or (asked and about.get("missing")):
        raise ValueError(
            f"{place} needs data, means and elsewhere, the reason why it is not asked at others, or no means"
        )
    if asked and (unknown := [mean for mean in asked if mean not in means]):
        raise ValueError(f"{place}: means={unknown} must be among those of the grid, {', '.join(map(str, means))}")
    return Benchmark(
        task,
        data=Path(about["data"]) if about.get("data") else None,
        make=about.get("make"),
        missing=about.get("missing"),
        means=asked,
        elsewhere=about.get("elsewhere"),
    )


def _folder_name(name: str) -> str:
    if Path(name).name != name or name.startswith("."):
        raise ValueError(f"models: {name!r} must be a name that a folder can have")
    return name


def _known(place: str, entry: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raises ValueError for an entry that has a field of another name."""
    for name in entry:
        if name not in names:
            raise ValueError(f"{place}: {name!r} is not known{did_you_mean(name, names)}; it has {', '.join(names)}")

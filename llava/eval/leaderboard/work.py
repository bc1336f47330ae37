"""Which part of a grid is done and what is left: every model and task opened, with the state of each cell."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

from llava.reduction import did_you_mean
from llava.shipped import shipped

from ..ask.configuration import run_configuration
from ..ask.opening import Checkpoint, Evaluation, open_checkpoint, open_evaluation
from ..results.folder import require_same
from .cells import FILE, Cell, Job, empty, jobs, read_cells, write_cells
from .grid import Benchmark, Grid, Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Which part of a grid: names of models, tasks and methods (``*`` for any letters) and means; empty: all of them."""

    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    means: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()

    def check(self, grid: Grid) -> None:
        """Raises ValueError naming what the grid does not hold."""
        held = {
            "models": [model.name for model in grid.models],
            "tasks": [benchmark.task for model in grid.models for benchmark in model.benchmarks],
            "means": list(grid.means),
            "methods": [method.name for method in grid.methods],
        }
        for kind, names in held.items():
            for wanted in getattr(self, kind):
                if not any(_matches(name, [wanted]) for name in names):
                    near = did_you_mean(str(wanted), map(str, names))
                    listed = ", ".join(dict.fromkeys(map(str, names)))
                    raise ValueError(f"{kind}: the grid has no {wanted}{near}; it has {listed}")

    def wants(self, cell: Cell) -> bool:
        """Whether a cell is in it; full and blind belong to every mean."""
        return _matches(cell.name, self.methods) and (cell.mean is None or _matches(cell.mean, self.means))


@dataclass
class Work:
    """One model on one task: the opened evaluation, None where there is none, and every cell of the grid in order."""

    model: Model
    benchmark: Benchmark
    folder: Path
    means: tuple[int, ...]
    evaluation: Evaluation | None
    jobs: list[Job]
    chosen: list[Job] = field(default_factory=list)  # the cells of the selection

    def left(self) -> list[Job]:
        """The chosen cells that can have a run and have no finished one."""
        return [job for job in self.chosen if job.plan is not None and not self.finished(job)]

    def finished(self, job: Job) -> bool:
        return job.cell.plan is not None and (self.folder / job.cell.plan / "metrics.json").is_file()

    def require_same(self) -> None:
        """Raises ValueError for a finished run of the selection with another configuration, such as other weights under the same name."""
        if self.evaluation is None:
            return
        for job in self.chosen:
            if job.plan is not None and self.finished(job):
                require_same(self._run(job), run_configuration(self.evaluation, job.plan))

    def answered(self, job: Job) -> int:
        """How many questions of a cell have their answer."""
        file = self._run(job) / "predictions.jsonl"
        return file.read_bytes().count(b"\n") if file.is_file() else 0

    def _run(self, job: Job) -> Path:
        return self.folder / (job.cell.plan or ".")

    def refuse(self, job: Job, reason: str) -> None:
        """Note that the model refused a cell's plan, and why; its folder is removed if it holds no answer."""
        refused = Job(replace(job.cell, reason=reason))
        self.jobs = [refused if other is job else other for other in self.jobs]
        self.chosen = [refused if other is job else other for other in self.chosen]
        if not self.answered(job) and job.cell.plan:
            for file in (self.folder / job.cell.plan).glob("*"):
                file.unlink()
            (self.folder / job.cell.plan).rmdir()
        self.write()

    def write(self) -> None:
        """Write the cells beside the runs."""
        cells = [job.cell for job in self.jobs]
        write_cells(self.folder, self.model.spec.name, self.benchmark.task, self.means, cells)


def open_works(grid: Grid, chosen: Selection, make: bool = True, retry: bool = False) -> list[Work]:
    """Every chosen model and task in the grid's order; nothing is loaded.

    make: make models and data that are missing and can be made, and write ``grid.json``; else only look. retry: forget which
    plans a model has refused. Raises ValueError as ``Selection.check``, ``jobs`` and ``Work.require_same`` do, and for a command that fails.
    """
    chosen.check(grid)
    works = []
    for model in grid.models:
        benchmarks = [each for each in model.benchmarks if _matches(each.task, chosen.tasks)]
        if not benchmarks or not _matches(model.name, chosen.models):
            continue
        if make:
            _make(Path(model.spec.path), model.make)
        checkpoint, cells, reason = None, [], ""
        try:
            checkpoint = open_checkpoint(model.spec)
        except FileNotFoundError as error:
            reason = str(error)
        else:
            cells = jobs(model, checkpoint, grid.methods, grid.means)
        for benchmark in benchmarks:
            work = _open(grid, model, benchmark, checkpoint, cells, reason, make)
            if not retry:
                _remember_refusals(work)
            work.chosen = [job for job in work.jobs if chosen.wants(job.cell)]
            work.require_same()
            if make:
                work.write()
            works.append(work)
    return works


def _open(
    grid: Grid,
    model: Model,
    benchmark: Benchmark,
    checkpoint: Checkpoint | None,
    cells: list[Job],
    reason: str,
    make: bool,
) -> Work:
    """One model on one task, without an evaluation where the model, its data or the task is missing."""
    evaluation, reason = None, benchmark.missing or reason
    if not reason and benchmark.data is not None:
        if make:
            _make(benchmark.data, benchmark.make)
        try:
            evaluation = open_evaluation(grid.settings(model, benchmark))
        except FileNotFoundError as error:
            reason = str(error)
    if evaluation is None:
        cells = [Job(cell) for method in grid.methods for cell in empty(method, grid.means, reason)]
    cells = [job if benchmark.asked_at(job.cell.mean) else _unasked(job.cell, benchmark.elsewhere) for job in cells]
    return Work(model, benchmark, grid.folder(model, benchmark), grid.means, evaluation, cells)


def _unasked(cell: Cell, reason: str | None) -> Job:
    """A cell at a mean at which its task is not asked."""
    return Job(replace(cell, plan=None, reason=reason))


def _remember_refusals(work: Work) -> None:
    """Note the reason for every plan that the model has refused before."""
    if not (work.folder / FILE).is_file():
        return
    _, cells = read_cells(work.folder / FILE)
    refused = {cell.plan: cell.reason for cell in cells if cell.plan and cell.reason}
    work.jobs = [
        Job(replace(job.cell, reason=refused[job.cell.plan])) if job.plan and job.cell.plan in refused else job
        for job in work.jobs
    ]


def _make(path: Path, command: str | None) -> None:
    """Run the module that makes what is missing. Raises ValueError where it fails."""
    if command is None or shipped(path).exists():
        return
    logger.info("%s is missing: python -m %s", path, command)
    done = subprocess.run([sys.executable, "-m", *shlex.split(command)])
    if done.returncode:
        raise ValueError(f"make: python -m {command} ended with status {done.returncode}; {path} is missing still")


def _matches(name: str | int, wanted: Sequence[str | int]) -> bool:
    return not wanted or any(fnmatch(str(name), str(each)) for each in wanted)

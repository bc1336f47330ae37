"""Folders of results as the cells of one leaderboard: a run with its figures in each, or why there is none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava.files import read_json

from ..report.compare import MARGIN
from ..report.rows import SEED, Row, boards, split_rows
from ..report.runs import collect
from .agreement import Agreement, Runs, agreements
from .cells import FILE, Cell, read_cells
from .contenders import comparable, contenders
from .grid import BOUNDS, RANDOM

CONTROLS = (*BOUNDS, RANDOM, "grid", "pool", "downsample", "stride")
MEANS = (192, 128, 64, 32, 16)  # of runs that no grid.json speaks of
CLOSE = 0.05  # such a run is at a mean if its own differs by no more than this share
SPLIT = "downsample"  # the control by which VTC-Bench finds the questions of its group A


@dataclass(frozen=True)
class Entry:
    """One cell: a method of a model on a task at a mean, with its run in ``row`` or the ``reason`` why there is none.

    ``kind``: "before" or "inside" the language model, or "control". ``mean``: None for full and blind. ``entering``: visual tokens that enter the language
    model, None where not known. ``contender``: it may be the best of its task and mean; None for what does not compete.
    ``front``: no other run of the same model and task scores as much at a lower mean.
    """

    model: str
    task: str
    name: str
    kind: str
    mean: int | None
    row: Row | None = None
    reason: str | None = None
    entering: float | None = None
    contender: bool | None = None
    front: bool = False

    @property
    def competes(self) -> bool:
        """Whether it is a method's run, or a control's, at a mean."""
        return self.row is not None and self.mean is not None


@dataclass(frozen=True)
class Leaderboard:
    """All entries by model, task, mean and score, and how far rankings agree."""

    entries: list[Entry]
    means: tuple[int, ...]
    agreements: list[Agreement]

    def boards(self) -> dict[tuple[str, str], list[Entry]]:
        """The entries by model and task."""
        return by_board(self.entries)


def build(paths: Sequence[str | Path], margin: float = MARGIN) -> Leaderboard:
    """The leaderboard of all runs in and under the folders.

    Runs are named and placed by the ``grid.json`` beside them, and where there is none, by their method and their own
    mean. A model and task without any run come last. margin: points within which a run is called equivalent to the full model. Raises FileNotFoundError where there
    is no finished run, and ValueError for two runs in one cell and for a file that is not what it should be.
    """
    rows, unfinished = collect(paths, margin)
    rows = [row for board in boards(rows).values() for row in split_rows(board, SPLIT)]
    entries, means = _entries(rows, _grids(paths), unfinished)
    judged = [entry for group in by_board(entries).values() for entry in _fronts(_contenders(group))]
    ranked: dict[tuple[str, str, int], Runs] = {}
    for entry in judged:
        if entry.competes and entry.mean is not None and entry.row is not None and entry.row.answers is not None:
            place = (entry.model, entry.task, entry.mean)
            ranked[place] = {**ranked.get(place, {}), entry.name: entry.row.answers}
    measured = {(entry.model, entry.task) for entry in judged if entry.row}
    ordered = sorted(judged, key=lambda entry: ((entry.model, entry.task) not in measured, *_order(entry)))
    return Leaderboard(ordered, means, agreements(ranked))


def by_board(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Entries by model and task."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.model, entry.task), []).append(entry)
    return groups


def relative(folder: str | Path, output: Path) -> str:
    """The path of a run's folder from the folder of the page, with slashes on every system."""
    return Path(os.path.relpath(folder, output)).as_posix()


def _grids(paths: Iterable[str | Path]) -> dict[Path, tuple[str, str, list[int], list[Cell]]]:
    """By folder what its ``grid.json`` says: model, task, means and cells."""
    grids = {}
    for file in sorted({file for path in paths for file in Path(path).rglob(FILE)}):
        head, cells = read_cells(file)
        grids[file.parent] = (head["model"], head["task"], head["means"], cells)
    return grids


def _entries(
    rows: Sequence[Row], grids: Mapping[Path, tuple[str, str, list[int], list[Cell]]], unfinished: Sequence[Path]
) -> tuple[list[Entry], tuple[int, ...]]:
    """An entry for every cell of every grid, and for every run that no grid speaks of."""
    waiting: dict[tuple[Path, str], Row] = {}  # by results folder and plan
    for row in rows:
        key = (row.results, SEED.sub("", row.plan))
        if key in waiting:
            raise ValueError(
                f"{row.folders[0]} and {waiting[key].folders[0]} are seeds of one plan, but not asked alike"
            )
        waiting[key] = row
    begun = set(unfinished)
    found: dict[tuple[str, str, str, int | None], Entry] = {}
    used: set[tuple[Path, str]] = set()
    for folder, (model, task, _, cells) in grids.items():
        for cell in cells:
            place = (model, task, cell.name, cell.mean)
            key = (folder, SEED.sub("", cell.plan or ""))
            if key in waiting:
                used.add(key)
                entry = _with_run(Entry(model, task, cell.name, cell.kind, cell.mean), waiting[key])
                if place in found and found[place].row not in (None, entry.row):
                    raise ValueError(_twice(found[place], entry))
                found[place] = entry
            elif place not in found:
                state = (
                    "it was begun and is not finished" if folder / (cell.plan or ".") in begun else "not measured yet"
                )
                found[place] = Entry(model, task, cell.name, cell.kind, cell.mean, reason=cell.reason or state)
    means = tuple(dict.fromkeys(mean for *_, held, _ in grids.values() for mean in held))
    for key, row in waiting.items():
        if key in used:
            continue
        entry = _unplaced(row, means or MEANS)
        place = (entry.model, entry.task, entry.name, entry.mean)
        if entry.mean is None and entry.name not in BOUNDS:
            continue  # at none of the means
        if place in found and found[place].row is not None:
            raise ValueError(_twice(found[place], entry))
        found[place] = entry
    shown = means or tuple(mean for mean in MEANS if any(entry.mean == mean for entry in found.values()))
    return list(found.values()), tuple(sorted(shown, reverse=True))


def _twice(first: Entry, second: Entry) -> str:
    """What is wrong with two runs in one cell."""
    runs = " and ".join(entry.row.folders[0] for entry in (first, second) if entry.row)
    return f"{runs} are both {first.name} of {first.model} on {first.task} at {first.mean}; give the folders of one"


def _unplaced(row: Row, means: Sequence[int]) -> Entry:
    """The entry of a run that no grid speaks of; without a mean where it has none of ``means``."""
    tokens = row.visual_tokens or 0.0
    mean = next((mean for mean in means if abs(tokens - mean) <= CLOSE * mean), None)
    name = row.method if row.method in BOUNDS or row.seeds == 1 else SEED.sub("", row.method)
    layers = _per_layer(row)
    inside = bool(layers) and max(layers) - min(layers) > 1e-6
    control = re.split(r"\W", name)[0] in CONTROLS
    kind = "control" if control and "@" not in name else "inside" if inside else "before"
    return _with_run(Entry(row.model, row.task, name, kind, None if name in BOUNDS else mean), row)


def _with_run(entry: Entry, row: Row) -> Entry:
    layers = _per_layer(row)
    return replace(entry, row=row, model=row.model, task=row.task, entering=layers[0] if layers else None)


def _per_layer(row: Row) -> list[float]:
    """Mean visual tokens of each layer in a run; none where its cost does not say."""
    return read_json(Path(row.folders[0]) / "cost.json").get("visual_per_layer") or []


def _contenders(group: Sequence[Entry]) -> list[Entry]:
    """The entries of one model and task, with those marked that may be the best of their mean."""
    judged = list(group)
    for mean in {entry.mean for entry in group if entry.competes}:
        places = [place for place, entry in enumerate(group) if entry.competes and entry.mean == mean]
        answers = [row.answers if (row := group[place].row) else None for place in places]
        alike = comparable(answers)
        possible = contenders([run for index in alike if (run := answers[index]) is not None])
        for index, best in zip(alike, possible, strict=True):
            judged[places[index]] = replace(judged[places[index]], contender=best)
    return judged


def _fronts(group: Sequence[Entry]) -> list[Entry]:
    """The entries of one model and task, those on the Pareto front of score against mean tokens marked."""
    runs = sorted(
        (
            (row.visual_tokens or 0.0, -row.score, place)
            for place, entry in enumerate(group)
            if entry.competes and (row := entry.row)
        ),
    )
    marked, best, highest = list(group), float("-inf"), (0.0, 0.0)
    for tokens, score, place in runs:
        if -score > best or (tokens, score) == highest:
            best, highest = -score, (tokens, score)
            marked[place] = replace(group[place], front=True)
    return marked


def _order(entry: Entry) -> tuple[str, str, bool, float, float, str]:
    """By model and task; full and blind first, then the largest mean, the best score first and empty cells last."""
    score = -entry.row.score if entry.row else float("inf")
    return entry.model, entry.task, entry.mean is not None, -(entry.mean or 0), score, entry.name

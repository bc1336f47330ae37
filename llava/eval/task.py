"""A task: the questions of a benchmark, how an answer is read, and how answers become a score.

A benchmark is one file in ``llava/eval/tasks`` with one subclass of ``Task``, named as the file is; see ``mme.py``. A task
knows nothing of models: ``run.py`` asks its examples and hands the answers back as lines, the dicts of ``predictions.jsonl``.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

import numpy as np

Line = dict
RESAMPLES = 2000


@dataclass(frozen=True)
class Example:
    """One question: ``key`` is its own in the task, ``image`` a file or None, ``label`` the true answer.

    ``picture`` names what is resampled for a confidence interval: questions of one picture stand and fall together.
    """

    key: str
    question_id: str
    picture: str
    image: Path | None
    text: str
    label: str
    category: str


class Task(ABC):
    """The questions under ``data``, at most ``limit`` of them, read when the task is made.

    A limit keeps whole pictures, spread evenly over the benchmark, so that a small share still has every subtask. Raises
    ValueError with file and line for a file that is not what the benchmark's format says, and FileNotFoundError with the
    path for one that is not there.
    """

    name: ClassVar[str]
    max_new_tokens: ClassVar[int] = 16

    def __init__(self, data: str | Path, limit: int | None = None):
        self.data = Path(data)
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit} leaves no question; give at least 1 or none at all")
        found = list(self.read())
        if not found:
            raise ValueError(
                f"{self.data} holds no question of {self.name}; give the folder that this benchmark came in"
            )
        self.examples = spread(found, limit)

    @abstractmethod
    def read(self) -> Iterator[Example]:
        """Every question, in the order of the benchmark."""

    @abstractmethod
    def sources(self) -> list[Path]:
        """The question files: what a finished run depends on."""

    @abstractmethod
    def parse(self, text: str) -> str:
        """The answer that a model's words stand for."""

    @abstractmethod
    def aggregate(self, lines: Sequence[Line]) -> dict:
        """The metrics of all lines: at least ``score``, ``max_score`` and ``score_interval``; ``note`` where one is due."""

    def prompt(self, example: Example) -> str:
        """What the user says, without the picture's placeholder."""
        return example.text

    def score(self, example: Example, text: str) -> dict:
        """What a line says about an answer: ``answer`` as parsed, the ``label``, and whether it is ``correct``."""
        answer = self.parse(text)
        return {"answer": answer, "label": example.label, "correct": answer.lower() == example.label.lower()}

    def metrics(self, lines: Sequence[Line]) -> dict:
        """The task's own metrics with what every table shows: counts, and accuracy with its 95 % interval."""
        if not lines:
            raise ValueError("there is no answer to score")
        pictures = list(by_picture(lines).values())
        right = [sum(line["correct"] for line in group) for group in pictures]
        return {
            "task": self.name,
            "questions": len(lines),
            "pictures": len(pictures),
            "failed": sum("error" in line for line in lines),
            "accuracy": sum(right) / len(lines),
            "accuracy_interval": bootstrap(right, [len(group) for group in pictures]),
            **self.aggregate(lines),
        }

    def fingerprint(self) -> str:
        """A checksum of the question files, by which a rerun knows that it asks the same."""
        value = 0
        for file in self.sources():
            value = zlib.crc32(file.read_bytes(), value)
        return f"{value:08x}"


def spread(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """At most ``limit`` questions of whole pictures, evenly over the sequence; one picture at least."""
    if limit is None or limit >= len(examples):
        return list(examples)
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.picture, []).append(example)
    pictures = list(groups.values())
    count = max(1, limit * len(pictures) // len(examples))
    while count > 1:
        chosen = [pictures[index * len(pictures) // count] for index in range(count)]
        if sum(map(len, chosen)) <= limit:
            break
        count -= 1
    else:
        chosen = pictures[:1]
    return [example for group in chosen for example in group]


def by_picture(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Lines grouped by the picture they ask about, in order of first appearance."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["picture"], []).append(line)
    return groups


def bootstrap(
    value: Sequence[float],
    size: Sequence[float],
    strata: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> list[float]:
    """Percentile bootstrap of ``sum over strata of (sum of value / sum of size)``: [low, high].

    Each entry is one picture, drawn with replacement within its stratum (default: one stratum for all), 2,000 times from
    ``seed``. With ``value`` the right answers and ``size`` the questions of every picture this is the interval of accuracy.
    """
    value, size = np.asarray(value, dtype=float), np.asarray(size, dtype=float)
    labels = np.zeros(len(value), dtype=int) if strata is None else np.asarray(strata)
    rng, total = np.random.default_rng(seed), np.zeros(RESAMPLES)
    for label in dict.fromkeys(labels.tolist()):
        inside = np.flatnonzero(labels == label)
        drawn = rng.choice(inside, size=(RESAMPLES, len(inside)))
        total += value[drawn].sum(axis=1) / size[drawn].sum(axis=1)
    rest = 50 * (1 - level)
    return [float(bound) for bound in np.percentile(total, [rest, 100 - rest])]


def read_jsonl(file: Path, fields: Sequence[str]) -> list[Line]:
    """The objects of a jsonl file; each must have ``fields``. Raises ValueError naming file and line."""
    found = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number} is not JSON: {error}") from None
        missing = [field for field in fields if not isinstance(line, dict) or field not in line]
        if missing:
            raise ValueError(f"{file}:{number} lacks {', '.join(missing)}; a line needs {', '.join(fields)}")
        found.append(line)
    return found


def list_tasks() -> list[str]:
    """Names of the benchmarks: the files in ``llava/eval/tasks``."""
    package = importlib.import_module("llava.eval.tasks")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def get_task(name: str) -> type[Task]:
    """The task of that name. Raises ValueError with the nearest names for one that there is not."""
    names = list_tasks()
    if name not in names:
        near = get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"
        raise ValueError(f"task={name!r} is not known; {hint}")
    module = importlib.import_module(f"llava.eval.tasks.{name}")
    return next(
        kind for kind in vars(module).values() if isinstance(kind, type) and getattr(kind, "name", None) == name
    )

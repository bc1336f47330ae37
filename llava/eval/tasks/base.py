"""A task: the questions of a benchmark, how an answer is read, and how answers become a score.

A benchmark is one file in ``llava/eval/tasks`` with one subclass of ``Task``, named as the file is; see ``gqa.py``. A
task knows nothing about models: ``run.py`` asks its examples and hands the answers back as lines, the dicts of
``predictions.jsonl``.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import ClassVar

from llava.constants import DEFAULT_IMAGE_TOKEN, SHORT_ANSWER
from llava.files import Fields, excerpt, numbered_jsonl
from llava.reduction import did_you_mean
from llava.shards import picture_folder, split_address

from .statistics import Contributions, bootstrap, score_interval

Line = dict
QUESTION: dict[str, type | UnionType] = {
    "question_id": str | int,
    "image": str,
    "text": str,
}  # a line in LLaVA's format
ANSWER: dict[str, type | UnionType] = {"question_id": str | int, "prompt": str, "text": str, "metadata": dict | None}
SHARED = ("base", "statistics", "vqa_accuracy")  # files of this folder that are not benchmarks


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
    """The questions of a benchmark, at most ``limit`` of them, read when the task is made.

    data: the benchmark's folder, its question file, or tar shards (`llava.shards`) beside that, which hold the pictures as they
    lay in the folder. images: the folder of its pictures, or shards of that, by default where the benchmark keeps them next to
    the question file; where that folder is missing, shards next to the question file stand for it. truth: the file or folder
    with the true answers, likewise. A limit keeps whole pictures, spread evenly over the benchmark, so that a small share still
    has every subtask. Raises ValueError with file and line for a file that is not what the benchmark's format says, and
    FileNotFoundError with the path for one that is not there; of shards as `llava.shards.open_shards` does.
    """

    name: str
    questions: ClassVar[tuple[str, ...]]  # names of the question file in the folder; the first that exists is read
    pictures: ClassVar[str] = "."  # the pictures' folder inside it
    answers: ClassVar[str] = "."  # where the true answers lie inside it
    instructions: ClassVar[tuple[str, ...]] = (SHORT_ANSWER,)  # what prompts say besides the question
    # What papers print of the benchmark: the name of the figure, and the categories that it is over (none: all questions)
    printed: ClassVar[Mapping[str, tuple[str, ...]]] = {"accuracy": ()}
    max_new_tokens: int = 16
    instructed: bool = True  # whether prompts say what form of answer is wanted

    def __init__(
        self,
        data: str | Path,
        limit: int | None = None,
        images: str | Path | None = None,
        truth: str | Path | None = None,
    ):
        self.data = Path(data)
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit} leaves no question; give at least 1 or none at all")
        self.file = self._question_file()
        self.images = self._default_images() if images is None else picture_folder(images)
        self.truth = self.usual_truth() if truth is None else Path(truth)
        examples = list(self.read())
        if not examples:
            raise ValueError(f"{self.file} holds no question of {self.name}; give one that this benchmark came with")
        self.examples = sample_evenly(examples, limit)

    @abstractmethod
    def read(self) -> Iterator[Example]:
        """Every question of ``self.file``, in the order of the benchmark."""

    def usual_images(self) -> Path:
        """Where the benchmark keeps the pictures of this question file."""
        return self.file.parent / self.pictures

    def usual_truth(self) -> Path:
        """Where the benchmark keeps the true answers of this question file."""
        return self.file.parent / self.answers

    def question_lines(self, fields: Fields = QUESTION) -> Iterator[tuple[str, Line]]:
        """Place ("file:3") and object of every line of a question file in LLaVA's format. A repeated question raises."""
        yield from self.distinct((f"{self.file}:{number}", line) for number, line in numbered_jsonl(self.file, fields))

    def example(self, line: Line, label: str, category: str) -> Example:
        """The question of a line in LLaVA's format, known by its number, with its true answer."""
        name, picture = str(line["question_id"]), line["image"]
        return Example(name, name, picture, self.images / picture, line["text"], label, category)

    def distinct(self, questions: Iterable[tuple[str, Line]]) -> Iterator[tuple[str, Line]]:
        """The questions, each with its place. Raises ValueError for one that is not a question, or that is repeated."""
        earlier: dict[tuple[str, str], str] = {}
        for place, line in questions:
            try:
                question = str(line["question_id"]), self.strip_instructions(line["text"])
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
            if question in earlier:
                raise ValueError(
                    f"{place} asks twice what {earlier[question]} does: {excerpt(question[1])} of {question[0]}"
                )
            earlier[question] = place
            yield place, line

    def sources(self) -> list[Path]:
        """The question file and the true answers: what a finished run depends on."""
        return [self.file, *([self.truth] if self.truth.is_file() else [])]

    @abstractmethod
    def parse(self, text: str) -> str:
        """The answer that a model's words stand for."""

    @abstractmethod
    def aggregate(self, lines: Sequence[Line]) -> dict:
        """The metrics of all lines: at least ``score`` and ``max_score``; ``subtasks`` by name, each with its ``score``;
        ``note`` where one is due."""

    @classmethod
    def contributions(cls, lines: Sequence[Line]) -> Contributions:
        """What each picture, in order of first appearance, contributes to the score, so that lines alone can be resampled.

        Here the score is the accuracy in per cent.
        """
        pictures = by_picture(lines).values()
        right = [100.0 * sum(line["correct"] for line in group) for group in pictures]
        return Contributions(right, [float(len(group)) for group in pictures], limit=100.0)

    @classmethod
    def point(cls, limit: float) -> float:
        """What "one point" of the score is where runs are said to be equivalent: 1 % of the largest score, ``limit``."""
        return limit / 100

    def wording(self, example: Example) -> str:
        """The question with the benchmark's instruction; a benchmark with another wording overrides this."""
        return example.text

    def prompt(self, example: Example) -> str:
        """What the user says, without the picture's placeholder, and without instructions unless ``instructed``."""
        text = self.wording(example)
        if not self.instructed:
            for instruction in self.instructions:
                text = text.replace(instruction, "")
        return text if self.instructed else text.strip()

    def strip_instructions(self, prompt: str) -> str:
        """The question alone, on one line, by which answers files and question files are matched."""
        for words in (DEFAULT_IMAGE_TOKEN, *self.instructions):
            prompt = prompt.replace(words, " ")
        return " ".join(prompt.split())

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
            "accuracy_interval": bootstrap(right, [len(group) for group in pictures], limit=1.0),
            "score_interval": score_interval([self.contributions(lines)]),
            **self.aggregate(lines),
        }

    def fingerprint(self) -> str:
        """A checksum of the question files, by which a rerun knows that it asks the same."""
        value = 0
        for file in self.sources():
            value = zlib.crc32(file.read_bytes(), value)
        return f"{value:08x}"

    def _default_images(self) -> Path:
        """Where the benchmark keeps the pictures, in shards where ``data`` names some."""
        usual, home = self.usual_images(), self.file.parent
        if split_address(self.data) is not None:
            usual = self.data / os.path.relpath(usual, home)
        return picture_folder(usual, home)

    def _question_file(self) -> Path:
        """``data`` itself where it is a file, else the first of ``questions`` in it, or beside the shards that it names."""
        address = split_address(self.data)
        folder = self.data if address is None else address[0].parent
        if address is None and folder.is_file():
            return folder
        file = next((folder / name for name in self.questions if (folder / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"{folder / self.questions[0]} does not exist; --data is the folder that holds "
                f"{' or '.join(self.questions)}, or the question file itself; or tar shards beside it"
            )
        return file


def sample_evenly(examples: Sequence[Example], limit: int | None) -> list[Example]:
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


def share_of(examples: Sequence[Example], index: int, count: int) -> list[Example]:
    """The questions of share ``index`` (from 0) of ``count``, by whole pictures, equally many in each but the last.

    Raises ValueError for a share without a question.
    """
    pictures = list(dict.fromkeys(example.picture for example in examples))
    size = -(-len(pictures) // count)
    share = set(pictures[index * size : (index + 1) * size])
    if not share:
        raise ValueError(
            f"share {index} of {count} has no question: there are {len(pictures)} pictures, {size} a share"
        )
    return [example for example in examples if example.picture in share]


def subtask_scores(lines: Sequence[Line], field: str = "correct") -> dict[str, dict]:
    """For each category the mean of the ``field`` of its lines in per cent, and how many they are."""
    groups: dict[str, list[float]] = {}
    for line in lines:
        groups.setdefault(line["category"], []).append(float(line[field]))
    return {
        name: {"score": 100 * sum(group) / len(group), "questions": len(group)}
        for name, group in sorted(groups.items())
    }


def by_picture(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Lines grouped by the picture they ask about, in order of first appearance."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["picture"], []).append(line)
    return groups


def list_tasks() -> list[str]:
    """Names of the benchmarks: the files in ``llava/eval/tasks``."""
    package = importlib.import_module("llava.eval.tasks")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in SHARED)


def get_task(name: str) -> type[Task]:
    """The task of that name. Raises ValueError with the nearest names for an unknown one."""
    names = list_tasks()
    if name not in names:
        raise ValueError(
            f"task={name!r} is not known{did_you_mean(name.lower(), names)}; choose one of {', '.join(names)}"
        )
    module = importlib.import_module(f"llava.eval.tasks.{name}")
    return next(
        kind for kind in vars(module).values() if isinstance(kind, type) and getattr(kind, "name", None) == name
    )

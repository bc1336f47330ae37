"""What the layouts need from a world: endless pictures, and questions about them.

Worlds are made by the rooms above this one: drawn shapes, photographed things.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

STREAM = 86_028_121  # first number of every seed drawn here; training draws from small ones

Turn = tuple[str, str]
Open = tuple[str, str, tuple[str, ...]]


class Drawn(NamedTuple):
    """A picture's number, from 1; what it shows; and the generator that its questions are drawn from."""

    number: int
    scene: Any
    rng: np.random.Generator


class World(Protocol):
    """A world of pictures.

    name: in the names of files. about: what ScienceQA calls its topic and category. size: pixels of a picture's side. suffix: of
    its files. shared: whether there is one stream of pictures, which MME's subtasks share out among them. subtasks: MME's, and those of
    the world's own. images: layout to the usual number of pictures, for mme of each subtask unless they are shared; a layout that is
    not in it is not available for this world.
    """

    name: str
    about: tuple[str, str]
    size: int
    suffix: str
    shared: bool
    subtasks: tuple[str, ...]
    images: Mapping[str, int]

    def pictures(self, layout: int, seed: int, *further: int) -> Iterator[Drawn]:
        """Endless pictures, from a stream that no training reads; the numbers choose the stream and the questions."""
        ...

    def save(self, scene: Any, file: Path) -> None:
        """Write the picture of a scene."""
        ...

    def sources(self) -> list[Path]:
        """Files that decide which pictures and questions there are."""
        ...

    def yes_no_pair(self, subtask: str, scene: Any, rng: np.random.Generator) -> Turn | None:
        """Two questions, the first answered Yes, the second No; None where the scene cannot carry the subtask."""
        ...

    def open_questions(self, scene: Any, rng: np.random.Generator) -> list[Open]:
        """(question, answer, every answer of its kind), shuffled."""
        ...

    def multiple_choice(self, scene: Any, rng: np.random.Generator) -> dict:
        """{question, choices, answer (index)}."""
        ...

    def caption(self, scene: Any, rng: np.random.Generator) -> Turn:
        """A request to describe the picture, and a description."""
        ...

    def told(self, scene: Any, rng: np.random.Generator) -> list[Turn]:
        """The turns of a conversation for training, the first as it stands after the picture."""
        ...

    def present(self, scene: Any) -> list[str]:
        """The names of what is there, each once, sorted."""
        ...

    def absent(self, scene: Any) -> list[str]:
        """The names of what is certain not to be there."""
        ...

    def is_there(self, name: str) -> str:
        """POPE's question of whether there is such a thing."""
        ...

    def boxes(self, scene: Any) -> list[tuple[str, str, tuple[float, float, float, float]]]:
        """What is there once: its name, its kind, and (left, top, right, bottom) as shares of the picture."""
        ...

    def written(self, scene: Any) -> tuple[str, str, tuple[str, ...]] | None:
        """The one sign that is written in the picture, its noun, all signs of its kind; None unless there is one."""
        ...

"""The drawn world as the layouts of benchmarks ask for it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from llava.constants import SHORT_ANSWER
from llava.worlds import Drawn
from llava.worlds.files import YES_NO
from llava.worlds.protocol import STREAM, Open, Turn

from . import questions, world

TURNS, PAIRS = 2, 3  # open questions and yes/no pairs in a conversation


class Shapes:
    """Drawn pictures of shapes, letters and digits; every layout and subtask has pictures of its own."""

    name: str = "shapes"
    about: tuple[str, str] = ("shapes", "drawn world")
    size: int = world.SIZE
    suffix: str = ".png"
    shared: bool = False
    subtasks: tuple[str, ...] = questions.CATEGORIES
    images: Mapping[str, int] = {
        "mme": 25,
        "scienceqa": 200,
        "llava": 1000,
        "pope": 25,
        "textvqa": 200,
        "coco_caption": 200,
        "gqa": 100,
        "vqav2": 100,
    }

    def pictures(self, layout: int, seed: int, *further: int) -> Iterator[Drawn]:
        stream, number = (STREAM, layout, seed, *further), 0
        while True:
            number += 1
            yield Drawn(number, world.make_scene(*stream, number), np.random.default_rng((*stream, number, 2)))

    def save(self, scene: world.Scene, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        world.render(scene).save(file)

    def sources(self) -> list[Path]:
        return [Path(inspect.getfile(module)) for module in (world, questions)]

    def yes_no_pair(self, subtask: str, scene: world.Scene, rng: np.random.Generator) -> Turn | None:
        return questions.yes_no_pair(subtask, scene, rng)

    def open_questions(self, scene: world.Scene, rng: np.random.Generator) -> list[Open]:
        return questions.open_questions(scene, rng)

    def multiple_choice(self, scene: world.Scene, rng: np.random.Generator) -> dict:
        return questions.multiple_choice(scene, rng)

    def caption(self, scene: world.Scene, rng: np.random.Generator) -> Turn:
        return questions.caption(scene, rng)

    def told(self, scene: world.Scene, rng: np.random.Generator) -> list[Turn]:
        told = questions.conversation(scene, rng, TURNS)
        subtasks = (str(subtask) for subtask in rng.permutation(self.subtasks))
        pairs = (questions.yes_no_pair(subtask, scene, rng) for subtask in subtasks)
        for pair in islice(filter(None, pairs), PAIRS):
            told += zip(pair, YES_NO)
        (question, answer), *further = (told[place] for place in rng.permutation(len(told)))  # or No would follow Yes
        return [(f"{question}\n{SHORT_ANSWER}", answer), *further]

    def present(self, scene: world.Scene) -> list[str]:
        return sorted({item.kind for item in scene.shapes})

    def absent(self, scene: world.Scene) -> list[str]:
        return [kind for kind in world.SHAPES if kind not in self.present(scene)]

    def is_there(self, name: str) -> str:
        return f"Is there a {name} in the image?"

    def boxes(self, scene: world.Scene) -> list[tuple[str, str, tuple[float, float, float, float]]]:
        return []

    def written(self, scene: world.Scene) -> tuple[str, str, tuple[str, ...]] | None:
        if len(scene.glyphs) != 1:
            return None
        sign = scene.glyphs[0].kind
        alphabet, noun = (world.LETTERS, "letter") if sign in world.LETTERS else (world.DIGITS, "number")
        return sign, noun, tuple(alphabet)

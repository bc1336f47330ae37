"""Questions about a scene whose answers are certain: open ones, options with letters, captions and boxes.

questions = Questions(world)
scene = world.scene(1, 2)
questions.open_questions(scene, np.random.default_rng(3))      # [("What is at the top left?", "heron", (...)), ...]
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from llava.constants import LETTER_ANSWER
from llava.worlds.files import OPTIONS, lettered
from llava.worlds.protocol import Open, Turn

from .balance import pick
from .names import COLOURS, DOUBTFUL, NUMBER_WORDS, colour_of, may_be, plural, with_article
from .pairs import Pairs, near_colours
from .places import CELLS, at, by_place, cell_of, on_side, opposite
from .scene import SIZE, Placed, Scene, World

DESCRIBE = "Describe the image."
WHAT_IS_THIS = "What is this?"
MOST_NUMBER = 4
FEW = 0.25  # share of the scenes asked how many there are of a name that is there once, and of one that is absent


class Questions:
    """The questions of a world of things; the scene and the generator decide which are asked, and in which words."""

    def __init__(self, world: World):
        self.pairs = Pairs(world)
        self.subtasks = tuple(self.pairs.makers)
        self.names = tuple(thing.name for thing in world.things)

    def yes_no_pair(self, subtask: str, scene: Scene, rng: np.random.Generator) -> Turn | None:
        """Two questions of a subtask: the first is answered Yes, the second No; None where the scene cannot carry it.

        Raises ValueError for a subtask that is not in ``subtasks``.
        """
        return self.pairs.make(subtask, scene, rng)

    def open_questions(self, scene: Scene, rng: np.random.Generator) -> list[Open]:
        """All open questions that the scene carries, shuffled: (question, answer, the answer and all that are certain to be wrong)."""
        found = [*self._of_places(scene, rng), *self._of_names(scene), *self._of_numbers(scene, rng)]
        if len(scene.items) == 1:
            found.append((WHAT_IS_THIS, scene.items[0].name, self._names_beside(scene.items[0].name)))
        if not found:
            found.append(_how_many(scene.items[0].name, 1))
        return [found[index] for index in rng.permutation(len(found))]

    def multiple_choice(self, scene: Scene, rng: np.random.Generator, choices: int = 4) -> dict:
        """One question with lettered choices, as ScienceQA asks: {question, choices, answer (index)}.

        There are ``choices`` of them, unless the scene carries no question with that many answers. In half of the
        questions about a name, the wrong names are those of other things in the picture, if there are any.
        """
        found = self.open_questions(scene, rng)
        question, answer, options = next((one for one in found if len(one[2]) >= choices), found[0])
        wrong = [option for option in options if option != answer]
        wrong = [wrong[index] for index in rng.permutation(len(wrong))]
        if rng.random() < 0.5:
            there = {item.name for item in scene.items}
            wrong.sort(key=lambda option: option not in there)
        chosen = [answer, *wrong[: choices - 1]]
        order = rng.permutation(len(chosen))
        return {
            "question": question,
            "choices": [chosen[index] for index in order],
            "answer": int(np.flatnonzero(order == 0)[0]),
        }

    def caption(self, scene: Scene, rng: np.random.Generator) -> Turn:
        """A request to describe the picture, and a sentence with its things in any order: "An owl at the top left and two frogs."""
        numbers = Counter(item.name for item in scene.items)
        parts = []
        for name, number in numbers.items():
            if number > 1:
                parts.append(f"{NUMBER_WORDS[number]} {plural(name)}")
            else:
                item = next(item for item in scene.items if item.name == name)
                parts.append(" ".join(filter(None, (with_article(name), _place(item)))))
        parts = [parts[index] for index in rng.permutation(len(parts))]
        told = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        return DESCRIBE, f"{told[0].upper()}{told[1:]}."

    def boxes(self, scene: Scene) -> list[tuple[str, tuple[float, float, float, float]]]:
        """The things that are there once: name, and (left, top, right, bottom) as shares of the picture's side."""
        found = []
        for item in scene.items:
            if scene.only(item.name):
                left, top, right, bottom = (min(1.0, max(0.0, value / SIZE)) for value in item.box)
                found.append((item.name, (left, top, right, bottom)))
        return found

    def _names_beside(self, name: str) -> tuple[str, ...]:
        return (name, *(thing.name for thing in self.pairs.wrong_names([name])))

    def _of_places(self, scene: Scene, rng: np.random.Generator) -> list[Open]:
        """What is there, its kind and colour, for things named by place; rare kinds more often than common ones."""
        found: list[Open] = []
        for item, cell in by_place(scene):
            found.append((f"What is {at(cell)}?", item.name, self._names_beside(item.name)))
            if colour := colour_of(item.name):
                others = (other for other in COLOURS if other != colour and not near_colours(colour, other))
                found.append((f"What color is the thing {at(cell)}?", colour, (colour, *others)))
            if item.name not in DOUBTFUL and rng.random() < self.pairs.kinds.rarity[item.kind]:
                passes = may_be(item.thing)
                others = (kind for kind in self.pairs.kinds.all if kind not in passes)
                found.append((f"What kind of thing is {at(cell)}?", item.kind, (item.kind, *others)))
        return found

    def _of_names(self, scene: Scene) -> list[Open]:
        """Where the things are that occur once."""
        found: list[Open] = []
        for item in scene.items:
            if not scene.only(item.name):
                continue
            if cell := cell_of(item):
                found.append((f"Where is the {item.name}?", cell, CELLS))
            for side, where in (("left", "on the left or the right"), ("top", "at the top or the bottom")):
                if (here := on_side(item, side)) is not None:
                    both = (side, opposite(side))
                    found.append((f"Is the {item.name} {where}?", both[not here], both))
        return found

    def _of_numbers(self, scene: Scene, rng: np.random.Generator) -> list[Open]:
        """How many there are of a name that occurs several times; in some scenes, of one that occurs once or never."""
        numbers = Counter(item.name for item in scene.items)
        single = [name for name, number in numbers.items() if number == 1]
        asked = [name for name, number in numbers.items() if number > 1]
        absent = self.pairs.wrong_names(numbers)
        others = (single, [thing.name for thing in absent])
        asked += [pick(rng, names) for names in others if names and rng.random() < FEW]
        return [_how_many(name, numbers[name]) for name in asked]


def choice_prompt(problem: dict) -> Turn:
    """A question with lettered options in the words of LLaVA's ScienceQA, and the letter that is right."""
    options = lettered(problem["choices"])
    lines = ("Context: N/A", problem["question"], *options, LETTER_ANSWER)
    return "\n".join(lines), OPTIONS[problem["answer"]]


def _how_many(name: str, number: int) -> Open:
    return f"How many {plural(name)} are there?", NUMBER_WORDS[number], NUMBER_WORDS[: MOST_NUMBER + 1]


def _place(item: Placed) -> str | None:
    """Where a thing is, if that is certain: its cell, else a side."""
    if cell := cell_of(item):
        return at(cell)
    for words, side in (("on the", "left"), ("on the", "right"), ("at the", "top"), ("at the", "bottom")):
        if on_side(item, side):
            return f"{words} {side}"
    return None

"""Pairs of yes/no questions about a scene under MME's subtask names, and two more: the kind of a thing, and its name.

The wrong half of a pair is drawn so that every word is as often right as wrong: without the picture, at most half can
be right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from ..pictures import Thing
from .balance import counterweights, pick, pick_wrong
from .kinds import Kinds
from .names import (
    COLOURS,
    NEAR_COLOURS,
    NUMBER_WORDS,
    alike,
    colour_of,
    plural,
    with_article,
)
from .places import SIDES, at, by_place, on_side, opposite, relations
from .scene import Placed, Scene, World

Pair = tuple[str, str]
HARD = 0.5  # share of the wrong names that are of the kind of the right one, or of another thing in the picture
# How often a question about a number is about one to four things, given how scenes are made and single things asked
# about
NUMBERS = {1: 0.25, 2: 0.31, 3: 0.26, 4: 0.18}
SINGLE = 0.3  # share of the scenes without repeated things that are asked for a number


class Pairs:
    """Yes/no questions about scenes of a world: the first of a pair is answered Yes, the second No.

    ``make(subtask, scene, rng)`` returns None where the scene cannot carry a subtask; ``rng`` decides all else.
    """

    def __init__(self, world: World):
        self.things = world.things
        self.kinds = Kinds(world.things)
        self.makers: dict[str, Callable[[Scene, np.random.Generator], Pair | None]] = {
            "existence": self.existence,
            "count": self.count,
            "position": self.position,
            "color": self.colour,
            "kind": self.kinds.pair,
            "naming": self.naming,
        }

    def make(self, subtask: str, scene: Scene, rng: np.random.Generator) -> Pair | None:
        """A pair of one subtask. Raises ValueError for an unknown subtask."""
        if subtask not in self.makers:
            raise ValueError(
                f"category={subtask!r} is no subtask of this world; choose one of {', '.join(self.makers)}"
            )
        return self.makers[subtask](scene, rng)

    def existence(self, scene: Scene, rng: np.random.Generator, place: str = "in this image") -> Pair:
        """Is there a heron?"""
        there = pick(rng, _distinct(scene.items))
        absent = self.wrong_names({item.name for item in scene.items})
        wrong = pick(rng, _harder(absent, there.kind, rng))
        yes, no = (f"Is there {with_article(name)} {place}?" for name in (there.name, wrong.name))
        return yes, no

    def count(self, scene: Scene, rng: np.random.Generator) -> Pair | None:
        """Are there two herons?"""
        numbers = Counter(item.name for item in scene.items)
        several = [name for name, number in numbers.items() if number > 1]
        if not several and rng.random() > SINGLE:
            return None
        name = pick(rng, several or list(numbers))
        right = numbers[name]
        others = [number for number in NUMBERS if number != right]
        wrong = pick(rng, others, (self._number_weights[number] for number in others))

        def ask(number: int) -> str:
            if number == 1:
                return f"Is there only one {name} in the image?"
            return f"Are there {NUMBER_WORDS[number]} {plural(name)} in the image?"

        return ask(right), ask(wrong)

    def position(self, scene: Scene, rng: np.random.Generator) -> Pair | None:
        """Is the heron in the left half, or above the frog? Both ways round are equally often right."""
        lone = [item for item in scene.items if scene.only(item.name)]
        found = [(item.name, side) for item in lone for side in SIDES if on_side(item, side)]
        beside = [
            (one, other, way) for one in lone for other in lone if one is not other for way in relations(one, other)
        ]
        if beside and (not found or rng.random() < 0.5):
            one, other, right = pick(rng, beside)
            yes, no = (f"Is the {one.name} {way} the {other.name}?" for way in (right, opposite(right)))
            return yes, no
        if not found:
            return None
        name, right = pick(rng, found)
        yes, no = (f"Is the {name} in the {side} half of the image?" for side in (right, opposite(right)))
        return yes, no

    def colour(self, scene: Scene, rng: np.random.Generator) -> Pair | None:
        """Is the thing at the top left red? Names would tell the colour, so that only the place is said."""
        known = [(cell, colour) for item, cell in by_place(scene) if (colour := colour_of(item.name))]
        if not known:
            return None
        cell, right = pick(rng, known)
        wrong = pick_wrong(right, self._colour_weights, near_colours, rng)
        if wrong is None:
            return None
        yes, no = (f"Is the thing {at(cell)} {colour}?" for colour in (right, wrong))
        return yes, no

    def naming(self, scene: Scene, rng: np.random.Generator) -> Pair | None:
        """Is the thing at the top left a heron?"""
        placed = by_place(scene)
        if not placed:
            return None
        item, cell = pick(rng, placed)
        present = [one.thing for one in _distinct(scene.items) if not alike(one.name, item.name)]
        if present and rng.random() < HARD / 2:
            wrong = pick(rng, present)
        else:
            wrong = pick(rng, _harder(self.wrong_names({item.name}), item.kind, rng))
        yes, no = (f"Is the thing {at(cell)} {with_article(name)}?" for name in (item.name, wrong.name))
        return yes, no

    def wrong_names(self, there: Iterable[str]) -> list[Thing]:
        """The things whose names certainly fit none of those that are there."""
        there = list(there)
        return [thing for thing in self.things if not any(alike(thing.name, name) for name in there)]

    @cached_property
    def _colour_weights(self) -> dict[str, float]:
        seen = Counter(colour for thing in self.things if (colour := colour_of(thing.name)))
        return counterweights({colour: seen[colour] / seen.total() for colour in COLOURS if seen[colour]}, near_colours)

    @cached_property
    def _number_weights(self) -> dict[int, float]:
        return counterweights(NUMBERS, lambda one, other: False)


def near_colours(one: str, other: str) -> bool:
    """Whether two people may see one thing in these two colours."""
    return frozenset((one, other)) in NEAR_COLOURS


def _distinct(items: Iterable[Placed]) -> list[Placed]:
    """The first thing of every name."""
    return list({item.name: item for item in reversed(tuple(items))}.values())[::-1]


def _harder(things: list[Thing], kind: str, rng: np.random.Generator) -> list[Thing]:
    """In half of the cases only those of the same kind, where there are any."""
    same = [thing for thing in things if thing.kind == kind]
    return same if same and rng.random() < HARD else things

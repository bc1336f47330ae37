"""Questions about the kinds of things: whether a kind is there, and whether one thing is of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..pictures import Thing
from .balance import counterweights, fitted, pick, pick_wrong
from .grounds import LEAFY
from .names import DOUBTFUL, NEAR_KINDS, may_be, with_article
from .places import at, by_place
from .scene import MOST, Scene

SAMPLE = 2000  # handfuls of things on which the weights are fitted
THERE = 0.4  # share of the questions that ask whether a kind is there


def near_kinds(one: str, other: str) -> bool:
    """Whether a thing may be of both kinds."""
    return frozenset((one, other)) in NEAR_KINDS


class Kinds:
    """Pairs of questions about kinds; things whose kind is open to doubt are not asked about."""

    def __init__(self, things: Sequence[Thing]):
        self.things = tuple(things)
        self.all = tuple(dict.fromkeys(thing.kind for thing in things))

    def pair(self, scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
        """Is there a vehicle? Is the thing at the top left an animal?"""
        return self._there(scene, rng) if rng.random() < THERE else self._of_one(scene, rng)

    def _there(self, scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
        halves = []
        present, absent = self._present_absent([item.thing for item in scene.items])
        if scene.ground in LEAFY:
            absent &= np.array([kind != "plant" for kind in self.all])
        for may, weights in zip((present, absent), self._there_weights):
            if not may.any():
                return None
            places = np.flatnonzero(may).tolist()
            halves.append(self.all[pick(rng, places, weights[places])])
        yes, no = (f"Is there {with_article(kind)} in this image?" for kind in halves)
        return yes, no

    def _of_one(self, scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
        sure = [(item, cell) for item, cell in by_place(scene) if item.name not in DOUBTFUL]
        if not sure:
            return None
        item, cell = pick(rng, sure, (self.rarity[item.kind] for item, _ in sure))
        passes = may_be(item.thing)
        wrong = pick_wrong(item.kind, self._one_weights, lambda one, other: other in passes, rng)
        if wrong is None:
            return None
        yes, no = (f"Is the thing {at(cell)} {with_article(kind)}?" for kind in (item.kind, wrong))
        return yes, no

    def _present_absent(self, things: Sequence[Thing]) -> np.ndarray:
        """(2, kinds) bool: which kinds are there for certain, and which are certain not to be."""
        present = {thing.kind for thing in things if thing.name not in DOUBTFUL}
        possible = frozenset().union(*(may_be(thing) for thing in things))
        return np.array([[kind in present for kind in self.all], [kind not in possible for kind in self.all]])

    @cached_property
    def rarity(self) -> dict[str, float]:
        """Weights, 1 at most, that let rare kinds be asked about more often than they are there."""
        numbers = Counter(thing.kind for thing in self.things)
        return {kind: (min(numbers.values()) / number) ** 0.5 for kind, number in numbers.items()}

    @cached_property
    def _handfuls(self) -> list[list[Thing]]:
        """Things as they might meet in scenes."""
        rng = np.random.default_rng(0)
        most = min(MOST, len(self.things))
        numbers = rng.integers(1, most + 1, size=SAMPLE)
        return [[self.things[index] for index in rng.permutation(len(self.things))[:number]] for number in numbers]

    @cached_property
    def _there_weights(self) -> tuple[np.ndarray, np.ndarray]:
        sampled = np.stack([self._present_absent(things) for things in self._handfuls])
        return fitted(sampled[:, 0], sampled[:, 1])

    @cached_property
    def _one_weights(self) -> dict[str, float]:
        shares = dict.fromkeys(self.all, 1e-9)
        for things in self._handfuls:
            sure = [thing for thing in things[: -(-len(things) // 2)] if thing.name not in DOUBTFUL]
            total = sum(self.rarity[thing.kind] for thing in sure)
            for thing in sure:
                shares[thing.kind] += self.rarity[thing.kind] / total / SAMPLE
        return counterweights(shares, near_kinds)

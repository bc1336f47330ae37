"""Conversations about a scene, for training: the benchmarks' questions in their words, none of which gives another one's answer away.

conversations = Conversations(Questions(world))
conversations.about(world.scene(1, 2), np.random.default_rng(3), 8)      # [(question, answer), ...]
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from llava.constants import SHORT_ANSWER, YES_OR_NO
from llava.utils import box_text
from llava.worlds.files import BOX, OPTIONS, YES_NO
from llava.worlds.protocol import Turn

from .balance import pick
from .names import plural
from .places import CELLS
from .questions import DESCRIBE, Questions, choice_prompt
from .scene import Scene

# What a conversation asks, and how often
MIX = {"yes_no": 0.45, "open": 0.25, "choice": 0.1, "box": 0.1, "caption": 0.1}
POPE = 0.3  # share of the questions about what is there that are in POPE's words
INSTRUCTED = 0.7  # share of the open questions that say how to answer


class Conversations:
    """Several questions about one scene. A model that sees nothing must not learn to answer one from those before it."""

    def __init__(self, questions: Questions):
        self.questions = questions

    def about(self, scene: Scene, rng: np.random.Generator, count: int, mix: Mapping[str, float] = MIX) -> list[Turn]:
        """At most ``count`` questions with their answers, at least one.

        mix: how often each sort is drawn, of those in ``MIX``. No name, kind or place is spoken of twice, Yes and No are equally
        many, and a description, which tells all, comes last; so there are fewer questions where a scene has no more to
        ask. How to answer is said with the first question alone, as in LLaVA-1.5's own records; said with each, it would be half
        of all tokens. Raises ValueError for an unknown sort.
        """
        if unknown := set(mix) - set(MIX):
            raise ValueError(f"mix has {', '.join(sorted(unknown))}; known are {', '.join(MIX)}")
        shares = np.array(list(mix.values())) / sum(mix.values())
        drawn = [self._turn(sort, scene, rng) for sort in rng.choice(list(mix), count, p=shares)]
        turns = _balanced(self._apart([turn for turn in drawn if turn[0] != DESCRIBE]))
        turns += [turn for turn in drawn if turn[0] == DESCRIBE][:1]
        (question, answer), *further = turns or drawn[:1]
        return [(_worded(question, answer, rng), answer), *further]

    def _turn(self, sort: str, scene: Scene, rng: np.random.Generator) -> Turn:
        if sort == "yes_no":
            return self._yes_or_no(scene, rng)
        if sort == "choice":
            return choice_prompt(self.questions.multiple_choice(scene, rng))
        if sort == "caption":
            return self.questions.caption(scene, rng)
        if sort == "box" and (boxes := self.questions.boxes(scene)):
            name, box = pick(rng, boxes)
            return f"{BOX}{name}", box_text(box)
        return self.questions.open_questions(scene, rng)[0][:2]

    def _yes_or_no(self, scene: Scene, rng: np.random.Generator) -> Turn:
        pair = None
        while pair is None:  # every scene carries existence
            pair = self.questions.yes_no_pair(pick(rng, self.questions.subtasks), scene, rng)
        half = int(rng.integers(2))
        question = pair[half]
        if rng.random() < POPE:
            question = question.replace("in this image", "in the image")
        return question, YES_NO[half]

    def _apart(self, turns: Iterable[Turn]) -> list[Turn]:
        """The turns that speak of nothing that one before them spoke of."""
        kept, spoken = [], set()
        for turn in turns:
            here = {self._singular[said] for said in self._subjects.findall(" ".join(turn).lower())}
            if not here & spoken:
                kept.append(turn)
                spoken |= here
        return kept

    @cached_property
    def _singular(self) -> dict[str, str]:
        """What questions speak of, in singular and plural, to itself in singular."""
        names = (*self.questions.names, *self.questions.pairs.kinds.all)
        return {form: name for name in names for form in (plural(name), name)} | {cell: cell for cell in CELLS}

    @cached_property
    def _subjects(self) -> re.Pattern[str]:
        longest_first = sorted(self._singular, key=len, reverse=True)
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")


def _balanced(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with as many Yes as No: the last of those that are more are left out."""
    numbers = Counter(answer for _, answer in turns)
    room: dict[str, int] = dict.fromkeys(YES_NO, min(numbers[answer] for answer in YES_NO))
    kept = []
    for question, answer in turns:
        if answer in room:
            room[answer] -= 1
        if room.get(answer, 0) >= 0:
            kept.append((question, answer))
    return kept


def _worded(question: str, answer: str, rng: np.random.Generator) -> str:
    """The question with one of the benchmarks' instructions how to answer, or none; letters, boxes and descriptions have theirs."""
    if question.startswith(BOX) or question == DESCRIBE or answer in OPTIONS:
        return question
    if answer in YES_NO:
        return question + pick(rng, (f" {YES_OR_NO}", f" {YES_OR_NO}\n{SHORT_ANSWER}", f"\n{SHORT_ANSWER}"))
    return question + pick(rng, (f"\n{SHORT_ANSWER}", ""), (INSTRUCTED, 1 - INSTRUCTED))

"""Questions about a scene, for training, in the benchmarks' words: conversations, in which none gives another one's answer away, or single ones.

conversations = Conversations(Questions(world))
conversations.about(world.scene(1, 2), np.random.default_rng(3), 8)      # [(question, answer), ...]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
    """Several questions about one scene, in a conversation or each by itself."""

    def __init__(self, questions: Questions):
        self.questions = questions

    def about(self, scene: Scene, rng: np.random.Generator, count: int, mix: Mapping[str, float] = MIX) -> list[Turn]:
        """A conversation: at most ``count`` questions with their answers, at least one.

        mix: how often each sort is drawn, of those in ``MIX``. A model that sees nothing must not learn to answer one question from
        those before it, so that no name, kind or place is spoken of twice, neither in what is asked nor in the other
        half of a pair, whose answer is the opposite; a description, which tells all, comes last. How to answer is said with the first question
        alone, as in LLaVA-1.5's own records; said with each, it would be half of all tokens. Raises ValueError for an unknown sort.
        """
        drawn = list(self._drawn(scene, rng, count, mix))
        told = [asked for asked in drawn if asked[0][0] == DESCRIBE][:1]
        kept = self._apart(asked for asked in drawn if asked[0][0] != DESCRIBE)
        turns = [pick(rng, asked) for asked in (kept + told or drawn[:1])]
        return [_worded(*turns[0], rng), *turns[1:]]

    def singly(self, scene: Scene, rng: np.random.Generator, count: int, mix: Mapping[str, float] = MIX) -> list[Turn]:
        """At most ``count`` questions or pairs, each to be asked by itself and none twice, with how to answer: of a pair both halves.

        mix: as in ``about``.
        """
        turns: dict[str, str] = {}
        for asked in self._drawn(scene, rng, count, mix):
            if not turns.keys() & dict(asked).keys():  # or there would be more of one answer
                turns |= asked
        return [_worded(question, answer, rng) for question, answer in turns.items()]

    def _drawn(
        self, scene: Scene, rng: np.random.Generator, count: int, mix: Mapping[str, float]
    ) -> Iterator[tuple[Turn, ...]]:
        """Questions of the sorts in ``mix``, those that are answered Yes or No with the other half of their pair."""
        if unknown := set(mix) - set(MIX):
            raise ValueError(f"mix has {', '.join(sorted(unknown))}; known are {', '.join(MIX)}")
        shares = np.array(list(mix.values())) / sum(mix.values())
        for sort in rng.choice(list(mix), count, p=shares):
            yield self._yes_and_no(scene, rng) if sort == "yes_no" else (self._turn(sort, scene, rng),)

    def _turn(self, sort: str, scene: Scene, rng: np.random.Generator) -> Turn:
        if sort == "choice":
            return choice_prompt(self.questions.multiple_choice(scene, rng))
        if sort == "caption":
            return self.questions.caption(scene, rng)
        if sort == "box" and (boxes := self.questions.boxes(scene)):
            name, box = pick(rng, boxes)
            return f"{BOX}{name}", box_text(box)
        return self.questions.open_questions(scene, rng)[0][:2]

    def _yes_and_no(self, scene: Scene, rng: np.random.Generator) -> tuple[Turn, Turn]:
        pair = None
        while pair is None:  # every scene carries existence
            pair = self.questions.yes_no_pair(pick(rng, self.questions.subtasks), scene, rng)
        words = "the image" if rng.random() < POPE else "this image"
        asked = [question.replace("in this image", f"in {words}") for question in pair]
        return (asked[0], YES_NO[0]), (asked[1], YES_NO[1])

    def _apart(self, drawn: Iterable[tuple[Turn, ...]]) -> list[tuple[Turn, ...]]:
        """The questions and pairs that speak of nothing that one before them spoke of."""
        kept, spoken = [], set()
        for asked in drawn:
            words = " ".join(text for turn in asked for text in turn).lower()
            here = {self._singular[said] for said in self._subjects.findall(words)}
            if not here & spoken:
                kept.append(asked)
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


def _worded(question: str, answer: str, rng: np.random.Generator) -> Turn:
    """The question with one of the benchmarks' instructions how to answer, or none; letters, boxes and descriptions have theirs."""
    if question.startswith(BOX) or question == DESCRIBE or answer in OPTIONS:
        return question, answer
    if answer in YES_NO:
        forms, shares = (f" {YES_OR_NO}", f" {YES_OR_NO}\n{SHORT_ANSWER}", f"\n{SHORT_ANSWER}"), None
    else:
        forms, shares = (f"\n{SHORT_ANSWER}", ""), (INSTRUCTED, 1 - INSTRUCTED)
    return question + pick(rng, forms, shares), answer

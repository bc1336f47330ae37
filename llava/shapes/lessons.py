"""What the language model is asked while it learns: phases of a curriculum and the questions that a picture gets in them.

A yes/no question is worded in four ways, with MME's own instruction or without, with LLaVA's or without: ``llava_mme.jsonl``
has LLaVA's alone, ``MME_test.json`` both. Each pair is asked in one wording and in either order, so that no wording
leans to Yes or No.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava.constants import LETTER_ANSWER, SHORT_ANSWER, YES_OR_NO
from llava.worlds.files import OPTIONS, lettered, which_sign, with_token

from . import world
from .questions import CATEGORIES, caption, conversation, multiple_choice, yes_no_fact

COUNTING = ("count", "numerical_calculation")  # the subtasks that are learned last
FORMS = (
    "caption",
    "open",
    "read",
    "bare",
    "yes or no",
    "short",
    "both",
    "letter",
    "bare letter",
)  # by kind and instructions


@dataclass(frozen=True)
class Phase:
    """One part of the curriculum: how deep, how many patches, which questions, until which step at which rate."""

    until: int
    layers: int
    patches: int
    rate: float
    pictures: int
    questions: int  # a picture
    caption_share: float
    open_share: float
    yes_no_share: float  # what is left is multiple choice
    suffix_share: float
    shallow_share: float = 0.0  # share of the steps in which the layers after THINKING see no patches
    counting_share: float = 0.0  # of the yes/no questions, beyond their even part: how many there are, and sums
    yes_or_no_share: float = 0.0  # of the yes/no questions: those that say so, with MME's own instruction
    bare_letter_share: float = 0.0  # of the multiple choice: those without LETTER_ANSWER, and as many without a context
    reading_share: float = (
        0.0  # of pictures with one letter or digit: asked which, as TextVQA does, its token said beside
    )
    below: int = 0  # how many of the added layers come before the others
    horizon: int | None = None  # the step at which the falling rate would reach zero, where that is not ``until``


@dataclass(frozen=True)
class Question:
    """What is asked, the answer, the one word that it rests on (None where there is none), and one of ``FORMS``."""

    text: str
    answer: str
    fact: str | None
    form: str = "caption"


def draw_questions(scene: world.Scene, rng: np.random.Generator, phase: Phase) -> list[Question]:
    """The questions of one picture, drawn by the phase's shares."""
    drawn: list[Question] = []
    if phase.reading_share and len(scene.glyphs) == 1 and rng.random() < phase.reading_share:
        drawn.append(_reading(scene.glyphs[0].kind))
    while len(drawn) < phase.questions:
        kind, suffix = rng.random(), f"\n{SHORT_ANSWER}" if rng.random() < phase.suffix_share else ""
        if kind < phase.caption_share:
            drawn.append(Question(*caption(scene, rng), fact=None))
        elif (kind := kind - phase.caption_share) < phase.open_share:
            drawn += [Question(text + suffix, answer, answer, "open") for text, answer in conversation(scene, rng, 2)]
        elif kind < phase.open_share + phase.yes_no_share:
            counting = phase.counting_share and rng.random() < phase.counting_share
            category = str(rng.choice(COUNTING if counting else CATEGORIES))
            if (asked := yes_no_fact(category, scene, rng)) is not None:
                yes, no, fact = asked
                # whether something is there: the negative is about something that is not there
                other = "zero" if category in ("existence", "OCR") else fact
                said = bool(phase.yes_or_no_share) and rng.random() < phase.yes_or_no_share
                end, form = f" {YES_OR_NO}" * said + suffix, FORMS[FORMS.index("bare") + said + 2 * bool(suffix)]
                pair = [Question(yes + end, "Yes", fact, form), Question(no + end, "No", other, form)]
                if phase.yes_or_no_share and rng.random() < 0.5:  # the last one drawn may be cut, Yes or No alike
                    pair.reverse()
                drawn += pair
        else:
            asked = multiple_choice(scene, rng)
            choices = "\n".join(lettered(asked["choices"]))
            bare, alone = (bool(share := phase.bare_letter_share) and rng.random() < share for _ in range(2))
            context, end = "" if alone else "Context: N/A\n", "" if bare else f"\n{LETTER_ANSWER}"
            text, fact = f"{context}{asked['question']}\n{choices}{end}", asked["choices"][asked["answer"]]
            drawn.append(Question(text, OPTIONS[asked["answer"]], fact, "bare letter" if bare else "letter"))
    return drawn[: phase.questions]


def _reading(glyph: str) -> Question:
    noun = "letter" if glyph in world.LETTERS else "number"
    text = f"{with_token(which_sign(noun), glyph)}\n{SHORT_ANSWER}"
    return Question(text, glyph, glyph, "read")

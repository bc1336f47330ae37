"""Questions about a drawn scene: yes/no pairs under MME's subtask names, multiple choice, conversation, captions.

Every function draws from the scene's symbols, so the answer is certain; where a scene cannot carry a kind of question the
function returns None and the caller goes on to another picture. The wrong half of a pair is drawn as the right half of
some other picture would be, so that the wording alone tells nothing: without the picture, at most half can be right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from .world import COLOURS, DIGITS, LETTERS, SHAPES, SIZE, SUMMANDS, TEXTURES, Item, Scene

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Things everybody knows the colour of: the commonsense part of a question that needs the picture as well.
COLOUR_OF = {
    "a tomato": "red",
    "blood": "red",
    "grass": "green",
    "a leaf": "green",
    "the sky": "blue",
    "the sea": "blue",
    "a lemon": "yellow",
    "the sun": "yellow",
    "a grape": "purple",
    "a carrot": "orange",
    "a pumpkin": "orange",
    "coal": "black",
    "the night": "black",
}
SIDES = ("left", "right", "top", "bottom")

Asked = tuple[str, str, str]
Option = TypeVar("Option")


def _other(rng: np.random.Generator, options: Iterable[str], *taken: str) -> str:
    return str(rng.choice([option for option in options if option not in taken]))


def _some(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(rng.integers(len(options)))]


def _lone_shapes(scene: Scene) -> list[Item]:
    return [item for item in scene.shapes if scene.only(item.kind)]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _existence(scene: Scene, rng: np.random.Generator) -> Asked:
    there = _some(rng, scene.shapes)
    kinds = {item.kind for item in scene.shapes}
    if rng.random() < 0.5:
        yes, no = (f"Is there {_a(kind)} in this image?" for kind in (there.kind, _other(rng, SHAPES, *kinds)))
        return yes, no, NUMBER_WORDS[_number(scene, there.kind)]
    pairs = {(item.colour, item.kind) for item in scene.shapes}
    missing = [(colour, kind) for colour in COLOURS for kind in SHAPES if (colour, kind) not in pairs]
    if rng.random() < 0.5:  # the hard kind: this shape is there, in another colour
        missing = [(colour, kind) for colour, kind in missing if kind == there.kind]
    looks = ((there.colour, there.kind), _some(rng, missing))
    yes, no = (f"Is there {_a(colour)} {kind} in this image?" for colour, kind in looks)
    return yes, no, NUMBER_WORDS[_number(scene, there.kind, there.colour)]


def _number(scene: Scene, kind: str, colour: str | None = None) -> int:
    return sum(item.kind == kind and colour in (None, item.colour) for item in scene.items)


def _plural(kind: str) -> str:
    return "crosses" if kind == "cross" else f"{kind}s"


def _count(scene: Scene, rng: np.random.Generator) -> Asked:
    counts = Counter(item.kind for item in scene.shapes)
    kind, right = counts.most_common(1)[0]
    wrong = _some(rng, [number for number in range(1, 5) if number != right])

    def ask(number: int) -> str:
        if number == 1:
            return f"Is there only one {kind} in the image?"
        return f"Are there {NUMBER_WORDS[number]} {_plural(kind)} in the image?"

    return ask(right), ask(wrong), NUMBER_WORDS[right]


def _side_of(item: Item, side: str) -> bool | None:
    """Whether the object lies on that side of the picture; None when it is too near the middle to say."""
    value = item.x if side in ("left", "right") else item.y
    if abs(value - SIZE / 2) < 24:
        return None
    return (value < SIZE / 2) == (side in ("left", "top"))


def _position(scene: Scene, rng: np.random.Generator) -> Asked | None:
    lone = _lone_shapes(scene)
    if rng.random() < 0.6:
        sides = [(item, side) for item in lone for side in SIDES if _side_of(item, side)]
        if not sides:
            return None
        item, right = _some(rng, sides)
        yes, no = (f"Is the {item.kind} in the {side} half of the image?" for side in (right, _opposite(right)))
        return yes, no, right
    sides = [(a, b) for a in lone for b in lone if abs(a.x - b.x) > 40]
    if not sides:
        return None
    one, other = _some(rng, sides)
    right = "left" if one.x < other.x else "right"
    yes, no = (f"Is the {one.kind} on the {side} side of the {other.kind}?" for side in (right, _opposite(right)))
    return yes, no, right


def _opposite(side: str) -> str:
    return SIDES[SIDES.index(side) ^ 1]


def _colour(scene: Scene, rng: np.random.Generator) -> Asked | None:
    lone = _lone_shapes(scene)
    if not lone:
        return None
    item = _some(rng, lone)
    yes, no = (f"Is the {item.kind} {colour}?" for colour in (item.colour, _other(rng, COLOURS, item.colour)))
    return yes, no, item.colour


def _ocr(scene: Scene, rng: np.random.Generator) -> Asked:
    there = _some(rng, scene.glyphs)
    present = {item.kind for item in scene.glyphs}
    alphabet, noun = (LETTERS, "letter") if there.kind in LETTERS else (DIGITS, "number")
    if _sum(scene) is not None:
        alphabet = SUMMANDS
    glyphs = (there.kind, _other(rng, alphabet, *present))
    yes, no = (f"Is the {noun} {glyph} written in the image?" for glyph in glyphs)
    return yes, no, NUMBER_WORDS[_number(scene, there.kind)]


def _scene(scene: Scene, rng: np.random.Generator) -> Asked:
    names = (scene.texture, _other(rng, TEXTURES, scene.texture))
    yes, no = (f"Is the background of this image {name}?" for name in names)
    return yes, no, scene.texture


def _sum(scene: Scene) -> int | None:
    digits = [int(item.kind) for item in scene.glyphs if item.kind in DIGITS]
    return sum(digits) if len(digits) == 2 else None


def _numerical(scene: Scene, rng: np.random.Generator) -> Asked | None:
    right = _sum(scene)
    if right is None:
        return None
    wrong = right
    while wrong == right:
        wrong = sum(int(digit) for digit in rng.choice(SUMMANDS, size=2))
    yes, no = (f"Is the sum of the two numbers in the image {NUMBER_WORDS[number]}?" for number in (right, wrong))
    return yes, no, NUMBER_WORDS[right]


def _commonsense(scene: Scene, rng: np.random.Generator) -> Asked | None:
    lone = _lone_shapes(scene)
    if not lone:
        return None
    item = _some(rng, lone)
    things = [
        _some(rng, [thing for thing, known in COLOUR_OF.items() if known == colour])
        for colour in (item.colour, _other(rng, COLOURS, item.colour))
    ]
    yes, no = (f"Does the {item.kind} have the color of {thing}?" for thing in things)
    return yes, no, item.colour


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], Asked | None]] = {
    "existence": _existence,
    "count": _count,
    "position": _position,
    "color": _colour,
    "OCR": _ocr,
    "scene": _scene,
    "numerical_calculation": _numerical,
    "commonsense_reasoning": _commonsense,
}
CATEGORIES = tuple(_MAKERS)


def yes_no_pair(category: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """Two questions of one MME subtask about the scene: the first is answered Yes, the second No.

    Returns None when the scene cannot carry the subtask; raises ValueError for a subtask that is not in ``CATEGORIES``.
    """
    asked = yes_no_fact(category, scene, rng)
    return None if asked is None else asked[:2]


def existence_pair(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """As ``yes_no_pair`` of the subtask that every scene can carry."""
    return _existence(scene, rng)[:2]


def yes_no_fact(category: str, scene: Scene, rng: np.random.Generator) -> Asked | None:
    """As ``yes_no_pair``, with the fact that the first question is about, in one word: a colour, a number, a side."""
    if category not in _MAKERS:
        raise ValueError(
            f"category={category!r} is not a subtask of the drawn world; choose one of {', '.join(CATEGORIES)}"
        )
    return _MAKERS[category](scene, rng)


def open_questions(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, tuple[str, ...]]]:
    """All open questions the scene carries, shuffled: (question, answer, every answer of that kind)."""
    colours, numbers = tuple(COLOURS), NUMBER_WORDS[:5]
    facts: list[tuple[str, str, tuple[str, ...]]] = [("What is the background of the image?", scene.texture, TEXTURES)]
    for item in _lone_shapes(scene):
        facts.append((f"What color is the {item.kind}?", item.colour, colours))
        for side in SIDES[::2]:
            if (here := _side_of(item, side)) is not None:
                both = (side, _opposite(side))
                facts.append(
                    (f"Is the {item.kind} on the {both[0]} or the {both[1]}?", both[0] if here else both[1], both)
                )
    for colour in COLOURS:
        same = [item for item in scene.shapes if item.colour == colour]
        if len(same) == 1:
            facts.append((f"Which shape is {colour}?", same[0].kind, SHAPES))
    kinds = sorted({item.kind for item in scene.shapes})
    for kind in (*kinds, _other(rng, SHAPES, *kinds)):
        facts.append((f"How many {_plural(kind)} are there?", NUMBER_WORDS[_number(scene, kind)], numbers))
    if len(scene.glyphs) == 1:
        glyph = scene.glyphs[0].kind
        alphabet, noun = (LETTERS, "letter") if glyph in LETTERS else (DIGITS, "number")
        facts.append((f"Which {noun} is written in the image?", glyph, alphabet))
    if (total := _sum(scene)) is not None:
        facts.append(("What is the sum of the two numbers?", NUMBER_WORDS[total], NUMBER_WORDS[2:]))
    return [facts[index] for index in rng.permutation(len(facts))]


def conversation(scene: Scene, rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """At most ``count`` open questions about the scene with their one-word answers."""
    return [(question, answer) for question, answer, _ in open_questions(scene, rng)[:count]]


def caption(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A request to describe the picture, and its objects in any order: ``star red left top, letter K, ...``."""
    parts = []
    for index in rng.permutation(len(scene.items)):
        item = scene.items[index]
        if item.kind in SHAPES:
            sides = [side for side in SIDES if _side_of(item, side)]
            parts.append(" ".join([item.kind, item.colour, *sides]))
        else:
            parts.append(f"{'letter' if item.kind in LETTERS else 'number'} {item.kind}")
    return "Describe the image.", ", ".join(parts)


def multiple_choice(scene: Scene, rng: np.random.Generator, choices: int = 4) -> dict:
    """One question with lettered choices, as ScienceQA asks: {question, choices, answer (index)}."""
    question, answer, options = open_questions(scene, rng)[0]
    wrong = [option for option in options if option != answer]
    chosen = [answer, *(str(option) for option in rng.permutation(wrong)[: choices - 1])]
    order = rng.permutation(len(chosen))
    return {
        "question": question,
        "choices": [chosen[index] for index in order],
        "answer": int(np.flatnonzero(order == 0)[0]),
    }

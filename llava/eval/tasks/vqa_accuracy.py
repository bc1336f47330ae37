"""How TextVQA and VQAv2 compare answers: one normal form of words, and agreement with ten people.

The rules are those of the VQA evaluation server, as LLaVA applies them to TextVQA and before it uploads VQAv2 answers: lower
case, no articles, numbers as digits, apostrophes put back, no punctuation. Papers: https://arxiv.org/abs/1505.00468,
https://arxiv.org/abs/1904.08920
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from .base import Example, Line, Task, by_picture, subtask_scores
from .statistics import Contributions

PEOPLE = 10  # who answered every question
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
DIGITS: dict[str, str] = dict(
    zip("none zero one two three four five six seven eight nine ten".split(), "0 0 1 2 3 4 5 6 7 8 9 10".split())
)
# Words that are recognised without (one of) their apostrophes: the server's choice, in which "I'm" and "she's" do not work.
APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
    how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
""".split()
CONTRACTIONS = {
    word[: match.start()] + word[match.end() :]: word for word in APOSTROPHES for match in re.finditer("'", word)
}
_PERIOD = re.compile(r"\.(?!\d)")


def normalise(text: str) -> str:
    """The form in which two answers are compared: "A red T-shirt." is "red t shirt", "Three" is "3", "2,000" is "2000".

    A punctuation mark is dropped if it stands next to a space anywhere in the text, else it becomes a space.
    """
    text = " ".join(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").split())
    stripped = text
    for mark in PUNCTUATION:
        next_to_blank = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if next_to_blank else " ")
    words = [DIGITS.get(word, word) for word in _PERIOD.sub("", stripped).split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_accuracy(text: str, answers: Sequence[str]) -> float:
    """Agreement with people, 0 to 1: the mean, over leaving each of them out, of min(1, how many others said this / 3).

    One of ten who said it is worth 0.3, two 0.6, three 0.9, four or more 1.
    """
    answer, normalised = normalise(text), [normalise(other) for other in answers]
    same = normalised.count(answer)
    return sum(min(1, (same - (other == answer)) / 3) for other in normalised) / len(normalised)


class VqaTask(Task):
    """A task whose every question ten people answered: the score is the agreement with them in per cent.

    ``read`` fills ``people``, their answers by the question's key; ``label`` is the one most of them gave. An answer is
    "correct", which only counts and paired comparisons use, when it has at least half the credit: two of ten gave it.
    """

    people: dict[str, list[str]]

    def parse(self, text: str) -> str:
        return normalise(text)

    def score(self, example: Example, text: str) -> dict:
        credit = soft_accuracy(text, self.people[example.key])
        return {"answer": normalise(text), "label": example.label, "credit": credit, "correct": credit >= 0.5}

    def aggregate(self, lines: Sequence[Line]) -> dict:
        return {
            "score": 100 * sum(line["credit"] for line in lines) / len(lines),
            "max_score": 100,
            "subtasks": subtask_scores(lines, "credit"),
            "note": "the score is soft: agreement with ten people; accuracy counts answers that two of them gave",
        }

    @classmethod
    def contributions(cls, lines: Sequence[Line]) -> Contributions:
        """A picture contributes the credit of its questions, in per cent, out of their number."""
        groups = by_picture(lines).values()
        value = [100 * sum(line["credit"] for line in group) for group in groups]
        return Contributions(value, [float(len(group)) for group in groups], limit=100.0)


def most_common(answers: Sequence[str]) -> str:
    """The answer that most people gave; of several the first."""
    return Counter(answers).most_common(1)[0][0]


def ten_answers(where: str, answers: object) -> list[str]:
    """The answers of ten people, given as words or as VQA's objects. Raises ValueError naming the place for anything else."""
    people = answers if isinstance(answers, list) else []
    words = [answer.get("answer") if isinstance(answer, dict) else answer for answer in people]
    texts = [word for word in words if isinstance(word, str)]
    if not len(words) == len(texts) == PEOPLE:
        raise ValueError(f"{where}: answers must be those of {PEOPLE} people, in words; {len(texts)} are there")
    return texts

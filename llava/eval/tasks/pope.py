"""POPE: is there such a thing in the picture? Three ways of choosing the things that are not make three categories.

LLaVA's layout: ``llava_pope_test.jsonl``, ``coco/coco_pope_{random,popular,adversarial}.json`` with the truth, ``val2014/``
with the pictures. LLaVA reports the mean of the three F1 scores. Paper: https://arxiv.org/abs/2305.10355
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from llava.files import excerpt, numbered_jsonl

from .base import QUESTION, Example, Line, Task, by_picture
from .statistics import Contributions

CATEGORIES = ("random", "popular", "adversarial")


def parse_answer(text: str) -> str:
    """``no`` if the first sentence, without its commas, has the word No, no or not, else ``yes``, as LLaVA reads answers."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def figures(answers: Sequence[tuple[str, str]]) -> dict:
    """From (truth, answer) pairs of yes and no: tp, fp, tn, fn, accuracy, precision, recall, f1 and yes_ratio, 0 to 1."""
    tp, fp, tn, fn = (answers.count(pair) for pair in (("yes", "yes"), ("no", "yes"), ("no", "no"), ("yes", "no")))
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return {
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
        "accuracy": (tp + tn) / len(answers),
        "precision": precision,
        "recall": recall,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        "yes_ratio": (tp + fp) / len(answers),
    }


def read_truth(file: Path) -> dict[tuple[str, str], str]:
    """(picture, question) to yes or no, of one ``coco_pope_*.json``, which is a jsonl file in spite of its name."""
    truth: dict[tuple[str, str], str] = {}
    for number, line in numbered_jsonl(file, {"image": str, "text": str, "label": str}):
        if line["label"].lower() not in ("yes", "no"):
            raise ValueError(f"{file}:{number}: label={excerpt(line['label'])} must be yes or no")
        truth[line["image"], " ".join(line["text"].split())] = line["label"].lower()
    return truth


class Pope(Task):
    """POPE; the score is the mean over the categories of 100 times F1, the answer that counts as positive being yes."""

    name = "pope"
    questions = ("llava_pope_test.jsonl",)
    pictures = "val2014"
    answers = "coco"
    printed = {"f1": CATEGORIES}

    def read(self) -> Iterator[Example]:
        truths = lru_cache(maxsize=None)(lambda category: read_truth(self._file(category)))
        for where, line in self.question_lines({**QUESTION, "category": str}):
            category = line["category"]
            if category not in CATEGORIES:
                raise ValueError(f"{where}: category={excerpt(category)} must be one of {', '.join(CATEGORIES)}")
            label = truths(category).get((line["image"], self.strip_instructions(line["text"])))
            if label is None:
                raise ValueError(f"{self._file(category)} has no answer to what {where} asks of {line['image']}")
            yield self.example(line, label=label, category=category)

    def _file(self, category: str) -> Path:
        return self.truth / f"coco_pope_{category}.json"

    def sources(self) -> list[Path]:
        return [self.file, *(file for file in map(self._file, CATEGORIES) if file.is_file())]

    def parse(self, text: str) -> str:
        return parse_answer(text)

    def aggregate(self, lines: Sequence[Line]) -> dict:
        categories = {}
        for name in CATEGORIES:
            if inside := [line for line in lines if line["category"] == name]:
                categories[name] = {**(one := figures(_answers(inside))), "score": 100 * one["f1"]}
        names = ("f1", "precision", "recall", "yes_ratio")
        mean = {key: sum(one[key] for one in categories.values()) / len(categories) for key in names}
        missing = [name for name in CATEGORIES if name not in categories]
        note = {"note": f"scored without {', '.join(missing)}"} if missing else {}
        return {"score": 100 * mean["f1"], "max_score": 100, **mean, "subtasks": categories, "missing": missing, **note}

    @classmethod
    def contributions(cls, lines: Sequence[Line]) -> Contributions:
        """F1 is 2 TP / (2 TP + FP + FN), so within a category a picture contributes to both."""
        groups = by_picture({**line, "picture": (line["category"], line["picture"])} for line in lines)
        categories = len({category for category, _ in groups})
        value, size = [], []
        for group in groups.values():
            one = figures(_answers(group))
            value.append(100 / categories * 2 * one["tp"])
            size.append(float(2 * one["tp"] + one["fp"] + one["fn"]))
        return Contributions(value, size, [category for category, _ in groups], limit=100.0)


def _answers(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Truth and answer of each line; a question that failed has the wrong one."""
    other = {"yes": "no", "no": "yes"}
    return [(line["label"], line["label"] if line["correct"] else other[line["label"]]) for line in lines]

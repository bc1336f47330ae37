"""Files of the layouts, and the lines that several of them have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llava.constants import SHORT_ANSWER

BOX = "Please provide the bounding box coordinate of the region this sentence describes: "  # as LLaVA asks RefCOCO
YES_NO = ("Yes", "No")  # answers to the halves of a pair of questions
OPTIONS = "ABCDE"  # as ScienceQA letters its choices
PEOPLE = 10  # who answer a question of TextVQA or VQAv2
CARELESS = 0.1  # how often one of them is wrong


def put_json(content: object, file: Path) -> None:
    """Write JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def put_jsonl(lines: Iterable[dict], file: Path) -> None:
    """Write JSON, one value per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def asked(question_id: str | int, image: str, question: str, category: str = "default") -> dict:
    """A line of a question file in LLaVA's format."""
    text = f"{question}\n{SHORT_ANSWER}"
    return {"question_id": question_id, "image": image, "text": text, "category": category}


def conversation(name: str, image: str, turns: Iterable[tuple[str, str]]) -> dict:
    """A record that LLaVA trains on: the picture is shown before the first question."""
    said = [
        {"from": speaker, "value": f"<image>\n{text}" if speaker == "human" and not at else text}
        for at, turn in enumerate(turns)
        for speaker, text in zip(("human", "gpt"), turn)
    ]
    return {"id": name, "image": image, "conversations": said}


def lettered(choices: Sequence[str]) -> list[str]:
    """The choices of a question with their letters: "A. red", "B. green"."""
    return [f"{letter}. {choice}" for letter, choice in zip(OPTIONS, choices)]


def which_sign(noun: str) -> str:
    """What TextVQA asks about the one letter or number in a picture."""
    return f"Which {noun} is written in the image?"


def with_token(question: str, sign: str) -> str:
    """The question as LLaVA asks TextVQA's: with what OCR has read."""
    return f"{question}\nReference OCR token: {sign}"


def people(answer: str, options: Iterable[str], rng: np.random.Generator) -> list[str]:
    """What ten people say, most of them the answer."""
    wrong = [option for option in options if option != answer]
    return [str(rng.choice(wrong)) if rng.random() < CARELESS else answer for _ in range(PEOPLE)]

"""TextVQA: questions about writing in a picture that ten people answered, in LLaVA's layout.

Questions: ``llava_textvqa_val_v051_ocr.jsonl``, each with a line of what an OCR program read. Ground truth:
``TextVQA_0.5.1_val.json``. Images: ``train_images``. ``textvqa_no_ocr`` asks the same without that line. Paper: https://arxiv.org/abs/1904.08920
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.files import excerpt, numbered_records

from .base import Example
from .vqa_accuracy import VqaTask, most_common, ten_answers

HINT = "Reference OCR token:"
_INLINE = re.compile(r"OCR tokens: .*?Question: (.*?) Short answer:", re.DOTALL)


def question_of(prompt: str) -> str:
    """The question in a prompt of one of LLaVA's three layouts, in lower case on one line.

    "OCR tokens: ... Question: ... Short answer:" in one line; a question, a line "Reference OCR token: ..." after or before it,
    and an instruction; a question and an instruction. Raises ValueError for anything else.
    """
    prompt = prompt.replace(DEFAULT_IMAGE_TOKEN, "").strip()
    inline = _INLINE.match(prompt)
    lines = [line for line in prompt.split("\n") if not line.startswith(HINT)]
    if inline is None and len(lines) != 2:
        raise ValueError(
            f"the prompt {excerpt(prompt)} is none of LLaVA's layouts for TextVQA: question, perhaps {HINT!r}, instruction, a line each"
        )
    return " ".join((inline[1] if inline else lines[0]).lower().split())


def read_truth(file: Path) -> dict[tuple[str, str], list[str]]:
    """(picture, question in lower case) to the ten answers, of ``TextVQA_0.5.1_val.json``."""
    fields = {"image_id": str | int, "question": str, "answers": list}
    return {
        (str(record["image_id"]), " ".join(record["question"].lower().split())): ten_answers(where, record["answers"])
        for where, record in numbered_records(file, fields, inside="data")
    }


class TextVqa(VqaTask):
    """TextVQA with the OCR hints of the question file."""

    name = "textvqa"
    questions = ("llava_textvqa_val_v051_ocr.jsonl",)
    pictures = "train_images"
    answers = "TextVQA_0.5.1_val.json"
    max_new_tokens = 32

    def read(self) -> Iterator[Example]:
        known, self.people = read_truth(self.truth), {}
        for number, (where, line) in enumerate(self.question_lines(), start=1):
            picture = str(line["question_id"])  # LLaVA's file names the picture here, not the question
            question, key = self.strip_instructions(line["text"]), f"{picture}#{number}"
            if (picture, question) not in known:
                raise ValueError(
                    f"{self.truth} has no answers to {excerpt(question)} about {picture}, which {where} asks"
                )
            self.people[key] = known[picture, question]
            yield Example(
                key=key,
                question_id=picture,
                picture=picture,
                image=self.images / line["image"],
                text=line["text"],
                label=most_common(self.people[key]),
                category="all",
            )

    def strip_instructions(self, prompt: str) -> str:
        return question_of(prompt)

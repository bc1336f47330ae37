"""COCO Caption: one sentence about a picture, compared with those of five people by CIDEr.

Questions: ``llava_coco_caption_val2014.jsonl``, one line per picture in LLaVA's format. Ground truth: COCO's own
``annotations/captions_val2014.json``. Images: ``val2014``. CIDEr weighs words by how rare they are in all references of the
split, so scores of different splits, or of a part of one, are not comparable. Papers: https://arxiv.org/abs/1504.00325, https://arxiv.org/abs/1411.5726
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava.files import excerpt, numbered_records
from llava.utils import installed

from .base import Example, Line, Task, by_picture
from .statistics import Contributions, total

MAX_SCORE = 1000  # 100 times the largest CIDEr
_CLITIC = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))(?!\w)")
_WORD = re.compile(r"'(?:s|re|ve|ll|d|m)\b|\w+(?:[-']\w+)*")


def tokenize(caption: str) -> str:
    """Words in lower case separated by spaces, without punctuation, clitics separate ("isn't" is "is n't").

    Differs from COCO's program, which runs Stanford's PTB tokenizer in Java: numbers with points or commas, "cannot" and
    abbreviations are split differently there. On plain captions both give the same words.
    """
    return " ".join(_WORD.findall(_CLITIC.sub(r" \1", caption.lower().replace("\u2019", "'"))))


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption against the references of its picture, 0 to 10, as pycocoevalcap computes it.

    Raises ValueError naming the extra to install where that package is missing.
    """
    if not installed("pycocoevalcap"):
        raise ValueError("CIDEr needs pycocoevalcap: pip install -e '.[caption]' (no Java is needed)")
    from pycocoevalcap.cider.cider import Cider

    truth = {number: [tokenize(one) for one in several] for number, several in enumerate(references)}
    said = {number: [tokenize(caption)] for number, caption in enumerate(captions)}
    return Cider().compute_score(truth, said)[1].tolist()


class CocoCaption(Task):
    """COCO Caption; the score is 100 times the mean CIDEr, as papers print it (it may exceed 100).

    There is no right and wrong: "correct", and so the accuracy, says that a caption has exactly the words of a
    reference.
    """

    name = "coco_caption"
    questions = ("llava_coco_caption_val2014.jsonl",)
    pictures = "val2014"
    answers = "annotations/captions_val2014.json"
    printed = {"cider": ()}
    max_new_tokens = 64

    def read(self) -> Iterator[Example]:
        known, self.references = read_truth(self.truth), {}
        for where, line in self.question_lines():
            name = str(line["question_id"])
            if line["image"] not in known:
                raise ValueError(f"{self.truth} has no captions of {line['image']}, which {where} asks about")
            self.references[name] = known[line["image"]]
            yield self.example(line, label=self.references[name][0], category="all")

    def parse(self, text: str) -> str:
        return tokenize(text)

    def score(self, example: Example, text: str) -> dict:
        answer, references = tokenize(text), self.references[example.key]
        right = answer in map(tokenize, references)
        return {"answer": answer, "label": example.label, "correct": right, "references": references}

    def aggregate(self, lines: Sequence[Line]) -> dict:
        return {
            "score": total(self.contributions(lines)),
            "max_score": MAX_SCORE,
            "note": "CIDEr times 100, without Java's tokenizer; accuracy counts captions that are a reference word for word",
        }

    @classmethod
    def contributions(cls, lines: Sequence[Line]) -> Contributions:
        """A picture contributes 100 times the CIDEr of its caption."""
        values = cider([line["text"] for line in lines], [line["references"] for line in lines])
        groups = by_picture({**line, "cider": 100 * value} for line, value in zip(lines, values, strict=True)).values()
        value = [sum(line["cider"] for line in group) for group in groups]
        return Contributions(value, [float(len(group)) for group in groups], limit=float(MAX_SCORE))

    @classmethod
    def point(cls, limit: float) -> float:
        """One of the score as papers print it; the largest score is far from any that a model gets."""
        return 1.0


def read_truth(file: Path) -> dict[str, list[str]]:
    """From the name of each picture's file to its captions, as an annotation file of COCO has them."""
    pictures = numbered_records(file, {"id": str | int, "file_name": str}, inside="images")
    names = {picture["id"]: picture["file_name"] for _, picture in pictures}
    captions: dict[str, list[str]] = {}
    for where, line in numbered_records(file, {"image_id": str | int, "caption": str}, inside="annotations"):
        if line["image_id"] not in names:
            raise ValueError(f"{where}: image_id={excerpt(line['image_id'])} is none of the pictures of the file")
        captions.setdefault(names[line["image_id"]], []).append(line["caption"])
    return captions

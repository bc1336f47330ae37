"""VQAv2: open questions that ten people answered, in LLaVA's layout.

Questions: ``llava_vqav2_mscoco_SPLIT.jsonl``. Ground truth: ``v2_mscoco_SPLIT_annotations.json`` next to it, in VQA's own
format. Images: ``test2015`` or ``val2014``. The real test splits have no public annotations: for them
``scripts/convert_vqav2_for_submission.py`` makes the file that the server takes, and this task is for splits that have them.
Paper: https://arxiv.org/abs/1612.00837
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llava.files import numbered_records

from .base import Example
from .vqa_accuracy import VqaTask, most_common, ten_answers

PREFIX = "llava_vqav2_mscoco_"


class Vqav2(VqaTask):
    """VQAv2; subtasks are the kinds of answers (yes/no, number, other).

    Differs from VQA's own evaluation, which leaves answers as they are where all ten people agree: here they are always
    compared in the form that LLaVA uploads.
    """

    name = "vqav2"
    questions = tuple(f"{PREFIX}{split}.jsonl" for split in ("val2014", "test-dev2015"))

    def usual_images(self) -> Path:
        return self.file.parent / ("test2015" if self._split.startswith("test") else self._split)

    def usual_truth(self) -> Path:
        return self.file.parent / f"v2_mscoco_{self._split}_annotations.json"

    @property
    def _split(self) -> str:
        return self.file.stem.removeprefix(PREFIX)

    def read(self) -> Iterator[Example]:
        known, self.people = read_truth(self.truth), {}
        for where, line in self.question_lines():
            name = str(line["question_id"])
            if name not in known:
                raise ValueError(f"{self.truth} has no answers to question {name}, which {where} asks")
            category, self.people[name] = known[name]
            yield self.example(line, label=most_common(self.people[name]), category=category)


def read_truth(file: Path) -> dict[str, tuple[str, list[str]]]:
    """Question id to kind of answer and the ten answers, of an annotation file of VQA."""
    fields = {"question_id": str | int, "answer_type": str, "answers": list}
    return {
        str(record["question_id"]): (record["answer_type"], ten_answers(where, record["answers"]))
        for where, record in numbered_records(file, fields, inside="annotations")
    }

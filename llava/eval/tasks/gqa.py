"""GQA: one answer per question, compared exactly, in LLaVA's layout.

Questions: ``llava_gqa_testdev_balanced.jsonl``. Ground truth: ``data/testdev_balanced_questions.json``. Images:
``data/images``. An answer is what LLaVA hands to GQA's own program: lower case, without its last period. Paper: https://arxiv.org/abs/1902.09506
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llava.files import read_json, require_fields

from .base import Example, Line, Task, subtask_scores


class Gqa(Task):
    """GQA; the score is the accuracy in per cent. Subtasks are the structures of the questions (query, verify, ...)."""

    name = "gqa"
    questions = ("llava_gqa_testdev_balanced.jsonl",)
    pictures = "data/images"
    answers = "data/testdev_balanced_questions.json"

    def read(self) -> Iterator[Example]:
        truth = read_json(self.truth)
        for where, line in self.question_lines():
            name = str(line["question_id"])
            known = truth.get(name)
            if not isinstance(known, dict) or "answer" not in known:
                raise ValueError(f"{self.truth} has no answer to question {name}, which {where} asks")
            require_fields(f"{self.truth}, question {name}", known, {"answer": str | int | float, "types": dict | None})
            yield self.example(
                line, label=str(known["answer"]), category=str((known.get("types") or {}).get("structural", "all"))
            )

    def parse(self, text: str) -> str:
        return text.strip().rstrip(".").lower()

    def aggregate(self, lines: Sequence[Line]) -> dict:
        return {
            "score": 100 * sum(line["correct"] for line in lines) / len(lines),
            "max_score": 100,
            "subtasks": subtask_scores(lines),
        }

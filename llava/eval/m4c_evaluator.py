"""TextVQA's comparison of answers under LLaVA's names; the code is in ``llava/eval/tasks/vqa_accuracy.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava.absent import absent_names

from .tasks.vqa_accuracy import normalise, soft_accuracy, ten_answers

__all__ = ["EvalAIAnswerProcessor", "TextVQAAccuracyEvaluator"]
__getattr__ = absent_names(__name__)


class EvalAIAnswerProcessor:
    """Turns an answer into the form in which the VQA server compares it; see ``normalise``."""

    def __call__(self, item: str) -> str:
        return normalise(item)


class TextVQAAccuracyEvaluator:
    """The agreement of answers with those of ten people, 0 to 1."""

    def __init__(self) -> None:
        self.answer_processor = EvalAIAnswerProcessor()

    def eval_pred_list(self, pred_list: Sequence[dict[str, Any]]) -> float:
        """The mean over {"pred_answer": text, "gt_answers": ten texts}.

        Raises ValueError for an empty list and, naming the entry, for another number of people.
        """
        if not pred_list:
            raise ValueError("pred_list is empty; give at least one answer")
        scores = [
            soft_accuracy(entry["pred_answer"], ten_answers(f"pred_list[{number}]", entry["gt_answers"]))
            for number, entry in enumerate(pred_list)
        ]
        return sum(scores) / len(scores)

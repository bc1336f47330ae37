"""Outcomes as the documents' JSON: their keys first, then what ours adds, each a list with one entry per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import mean

from llava.eval.tasks.mme import COGNITION, PERCEPTION, Mme
from llava.eval.tasks.statistics import Contributions, difference_interval, score_interval, total

from .sweep import Outcome, Sweep

HALVES = {"perception": PERCEPTION, "cognition": COGNITION}


def mme_table(curve: Mapping[int, Outcome]) -> dict:
    """A curve on MME: layers, total_scores, perception_scores, cognition_scores, subtask_scores (name to score), and more.

    Ours adds the 95 % intervals of the three scores, and what ``cost_table`` says.
    """
    metrics = [outcome.metrics for outcome in curve.values()]
    return {
        "layers": list(curve),
        "total_scores": [one["score"] for one in metrics],
        "perception_scores": [one["perception"] for one in metrics],
        "cognition_scores": [one["cognition"] for one in metrics],
        "subtask_scores": [{name: subtask["score"] for name, subtask in one["subtasks"].items()} for one in metrics],
        "total_intervals": [one["score_interval"] for one in metrics],
        **{f"{half}_intervals": [half_score(outcome, half)[1] for outcome in curve.values()] for half in HALVES},
        **cost_table(curve),
    }


def accuracy_table(curve: Mapping[int, Outcome]) -> dict:
    """A curve on ScienceQA: layers, accuracies, correct_counts, total_samples.

    Answers are read as ScienceQA's own evaluation reads them. Ours adds the 95 % intervals, the accuracies where only the
    letter itself counts, as in the documents' scripts, and what ``cost_table`` says.
    """
    metrics = [outcome.metrics for outcome in curve.values()]
    return {
        "layers": list(curve),
        "accuracies": [one["accuracy"] for one in metrics],
        "correct_counts": [outcome.correct for outcome in curve.values()],
        "total_samples": metrics[0]["questions"],
        "accuracy_intervals": [one["accuracy_interval"] for one in metrics],
        "strict_accuracies": [one["strict_accuracy"] for one in metrics],
        **cost_table(curve),
    }


def tables(sweep: Sweep, table: Callable[[Mapping[int, Outcome]], dict]) -> dict[str, dict]:
    """The table of every curve by its name, and of the references: full stands at the model's depth, blind at layer 0."""
    ends = {name: {sweep.layers if name == "full" else 0: outcome} for name, outcome in sweep.references.items()}
    return {name: table(curve) for name, curve in {**sweep.curves, **ends}.items()}


def flat_table(sweep: Sweep, table: Callable[[Mapping[int, Outcome]], dict]) -> dict:
    """The table of an experiment's only curve, and those of the others under ``controls``."""
    panels = tables(sweep, table)
    return {**panels.pop(next(iter(panels))), "controls": panels}


def baseline(sweep: Sweep) -> dict:
    """baseline_acc and baseline_correct: the full model's."""
    full = sweep.references["full"]
    return {"baseline_acc": full.metrics["accuracy"], "baseline_correct": full.correct}


def cost_table(curve: Mapping[int, Outcome]) -> dict:
    """What every point is and costs: its plan, and what ``costs`` says."""
    prices = [costs(outcome) for outcome in curve.values()]
    return {
        "plans": [outcome.plan for outcome in curve.values()],
        **{name: [one[name] for one in prices] for name in prices[0]},
    }


def costs(outcome: Outcome) -> dict[str, float]:
    """Mean visual tokens per layer, GFLOPs with tower and selection, KV MB, and ms per question without the tower."""
    cost = outcome.cost
    return {
        "visual_tokens": cost["visual_tokens"],
        "gflops": cost["total_flops"] / 1e9,
        "kv_mb": cost["kv_bytes"] / 1e6,
        "ms_per_question": cost["ms_per_question"],
    }


def answer_table(outcome: Outcome) -> dict:
    """One run on ScienceQA: accuracy, avg_latency, total_samples, correct_samples; ours adds interval, strict and cost.

    The latency is in seconds per question, its share of the batch with the tower's time for its picture.
    """
    metrics, answered = outcome.metrics, [line for line in outcome.lines if "error" not in line]
    return {
        "accuracy": metrics["accuracy"],
        "avg_latency": mean(line["seconds"] + line["tower_seconds"] for line in answered),
        "total_samples": metrics["questions"],
        "correct_samples": outcome.correct,
        "accuracy_interval": metrics["accuracy_interval"],
        "strict_accuracy": metrics["strict_accuracy"],
        "plan": outcome.plan,
        **costs(outcome),
    }


def score_table(outcome: Outcome) -> dict:
    """One run on MME: scores by subtask, perception_score, cognition_score, total_score, total_samples; intervals, cost."""
    one = mme_table({0: outcome})
    return {
        "scores": one["subtask_scores"][0],
        "perception_score": one["perception_scores"][0],
        "cognition_score": one["cognition_scores"][0],
        "total_score": one["total_scores"][0],
        "total_samples": outcome.metrics["questions"],
        **{name: one[f"{name}s"][0] for name in ("perception_interval", "cognition_interval", "total_interval")},
        "plan": outcome.plan,
        **costs(outcome),
    }


def half_score(outcome: Outcome, half: str, against: Outcome | None = None) -> tuple[float, list[float]]:
    """The perception or cognition score of MME (``half``; "total" is both) with its 95 % interval over pictures.

    With ``against`` it is the difference from another outcome, the same pictures drawn for both.
    """

    def contributions(run: Outcome) -> Contributions:
        return Mme.contributions([line for line in run.lines if half == "total" or line["category"] in HALVES[half]])

    pictures = contributions(outcome)
    if not pictures.value:  # no subtask of this half was asked
        return 0.0, [0.0, 0.0]
    if against is None:
        return total(pictures), score_interval([pictures])
    others = contributions(against)
    return total(pictures) - total(others), difference_interval([pictures], [others])

"""The notes below the table of a report: what a reader must know to read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .compare import NOT_SHOWN, equivalent_within
from .relative import relatives
from .rows import Row
from .table import LEVEL, by_interval_alone, named, templates

COST_NOTE = (
    "visual tokens: mean over decoder layers, as measured; in parentheses the least and the most of a question. GFLOPs: the "
    "prompt's, with tower. ms: median milliseconds per question in the run, from projector to answer; the vision tower runs "
    "once per picture and comes on top, except under methods that read or change it, where it is within ms. Brackets: 95 % bootstrap interval over pictures, corrected for few pictures."
)


def notes(rows: Sequence[Row], unfinished: Sequence[Path] = ()) -> list[str]:
    """What a reader of the table must know."""
    remarks = _remarks(rows)
    remarks += [
        f"{row.plan}: {row.failed} of {row.questions} questions failed and count as wrong."
        for row in rows
        if row.failed
    ]
    remarks += [f"{folder} is not finished and not shown." for folder in unfinished]
    if any(row.seeds > 1 for row in rows):
        remarks.append("Plans with several seeds: mean ± standard deviation over the seeds; costs are means.")
    template = f"Prompt template: {templates(rows)}."
    return [
        template,
        *dict.fromkeys(remarks),
        COST_NOTE,
        *_uncompared(rows),
        *_compared(rows),
        *_split_notes(rows),
        *_ratio_notes(rows),
    ]


def _remarks(rows: Sequence[Row]) -> list[str]:
    """What runs say of themselves: once for a model's task where all of its runs say it, else with the plans that do."""
    several = len({row.model for row in rows}) > 1
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(f"{row.task} on {row.model}" if several else row.task, []).append(row)
    remarks = []
    for where, inside in runs.items():
        for note in dict.fromkeys(row.note for row in inside if row.note):
            plans = [row.plan for row in inside if row.note == note]
            whose = "" if len(plans) == len(inside) else f", {', '.join(plans)}"
            remarks.append(f"{where}{whose}: {note}.")
    return remarks


def _uncompared(rows: Sequence[Row]) -> list[str]:
    """Which comparisons were left out, those with the same reason in one sentence."""
    plans_by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.uncompared.items():
            plans_by_reason.setdefault((name, reason), []).append(row.plan)
    sentences = []
    for (name, reason), plans in plans_by_reason.items():
        why = "one of the two folders holds none" if reason == "no predictions.jsonl" else "that run had"
        sentences.append(f"Not compared with {name}, since {why} {reason}: {', '.join(plans)}.")
    return sentences


def _compared(rows: Sequence[Row]) -> list[str]:
    """What the comparisons are, what is left after the correction for their number, and what they could detect."""
    sides = [side for row in rows for side in (row.vs_full, row.vs_random, row.vs_named)]
    made = [difference for difference in sides if difference is not None]
    if not made:
        return []
    other = named(rows)
    heads, same_cost = (
        ("vs full, vs random", "random")
        if not other
        else (f"vs full, vs random, vs {other}", "random, and a method that was named,")
    )
    sentences = [
        f"{heads}: paired difference of the score over the same questions (per cent: of accuracy), {same_cost} at the same mean "
        "visual tokens within 2 %; better or worse where its 95 % interval excludes 0, else not distinguishable (indistinct). p: "
        f"exact McNemar test of the answers, after Holm's correction for {len(made)} comparison{'s' if len(made) > 1 else ''}."
    ]
    if any(map(by_interval_alone, made)):
        sentences.append(
            f"perhaps: by the interval alone, not by the corrected p; of {len(made)} intervals about "
            f"{LEVEL * len(made):.1f} exclude 0 by chance."
        )
    smallest, largest = (bound(difference.detectable for difference in made) for bound in (min, max))
    size = f"{smallest:.1f}" if f"{smallest:.1f}" == f"{largest:.1f}" else f"{smallest:.1f} to {largest:.1f}"
    return [
        *sentences,
        f"Minimum detectable difference of these pairs at this sample size (two-sided, alpha 0.05, power 0.8): {size} "
        "points; a point is 1 % of the largest score (of CIDEr, 1; where the score cannot be resampled, 1 % of accuracy).",
        *_equivalent(rows),
    ]


def _equivalent(rows: Sequence[Row]) -> list[str]:
    """Which plans are shown to be as good as the full model; nothing else may be called lossless."""
    made = [(_named(row, rows), row.vs_full) for row in rows if row.vs_full is not None]
    if not made:
        return []
    margin = equivalent_within(made[0][1].margin)
    shown = [name for name, difference in made if difference.equivalence == margin]
    return [
        f"{margin[0].upper()}{margin[1:]} of full: {', '.join(shown) or f'{NOT_SHOWN} for any plan'}. It is shown where two "
        "one-sided paired tests at 0.05, not corrected for their number, reject a loss and a gain of so much; what is not "
        "shown may still be so. In the files, in parentheses: the smallest margin for which it is shown."
    ]


def _named(row: Row, rows: Sequence[Row]) -> str:
    """A row's plan, with its model and its task where the rows have several."""
    model = f" of {row.model}" if len({other.model for other in rows}) > 1 else ""
    return f"{row.plan}{model}" + (f" on {row.task}" if len({other.task for other in rows}) > 1 else "")


def _ratio_notes(rows: Sequence[Row]) -> list[str]:
    """What the means of ratios are, where the rows have any."""
    if not relatives(rows):
        return []
    return [
        "mean of ratios: over benchmarks, of the score to that of the full model; its interval resamples pictures within each "
        "benchmark, the same ones for both. Plans that lack a benchmark have none."
    ]


def _split_notes(rows: Sequence[Row]) -> list[str]:
    """What hard and easy questions are, and which plans were not split."""
    if not any(row.split for row in rows):
        return []
    controls = dict.fromkeys(row.split.control for row in rows if row.split)
    left_out = [_named(row, rows) for row in rows if row.split is None]
    sentences = [
        f"hard, easy: accuracy on the questions that {' or '.join(controls)} answers wrongly, and on the others (VTC-Bench, "
        "arXiv 2510.07143); that control itself has 0 and 100 there. Guessing gets some of the hard ones right: "
        "compare with random and with blind."
    ]
    if left_out:
        sentences.append(f"Not split, for lack of a control of their cost and questions: {', '.join(left_out)}.")
    return sentences

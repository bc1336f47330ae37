"""The rows of a report: one for each plan, its seeds together, compared with the controls."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.statistics import containing, holm, score_interval
from .compare import MARGIN, Answers, Difference, difference, obstacle
from .split import Split, split_answers

REFERENCES = {"full": "--", "blind": ":"}  # the methods that are no competitors, and how their lines are dashed
COMPARISONS = ("vs_full", "vs_random", "vs_named")
SAME_COST = 0.02  # how far the mean visual tokens of a random control, or of a named method, may lie from a plan's
NEAR_COST = 0.2  # likewise of a control that splits the questions: down-sampling keeps squares of whole numbers only
SEED = re.compile(r"[,_:-]seed=[^,_+]*")
AVERAGED: Mapping[str, Any] = {"averaged": True}  # marks the fields that show the mean of several seeds


@dataclass(frozen=True)
class Row:
    """One plan's finished run, or several seeds of it: names, scores with 95 % intervals, and mean cost of a question.

    ``template``: the prompt template, None where the folder does not say. With several ``seeds`` every figure is the
    mean and ``score_sd`` the standard deviation of their scores. A cost that a run does not have is None.
    ``visual_tokens_range``: the mean visual tokens of the cheapest and the most expensive question where they differ.
    ``subtasks`` are scores out of ``subtask_max``. ``split`` is the accuracy on both sides of a control, where one was
    named. ``vs_named`` is the comparison with what a reader has named. ``uncompared`` says for "full", "random" and what
    was named why a comparison with it was left out. ``answers`` is what comparisons are made of; None where a folder
    holds no predictions.
    """

    task: str
    model: str
    template: str | None
    plan: str
    method: str
    score: float = field(metadata=AVERAGED)
    max_score: float = field(metadata=AVERAGED)
    score_interval: list[float]
    accuracy: float = field(metadata=AVERAGED)
    accuracy_interval: list[float]
    visual_tokens: float | None = field(metadata=AVERAGED)
    visual_tokens_range: list[float] | None
    gflops: float | None = field(metadata=AVERAGED)
    kv_mb: float | None = field(metadata=AVERAGED)
    ms: float | None = field(metadata=AVERAGED)
    tower_ms: float | None = field(metadata=AVERAGED)
    prefill_ms: float | None = field(metadata=AVERAGED)
    decode_ms: float | None = field(metadata=AVERAGED)
    questions: int
    failed: int
    note: str
    subtasks: dict[str, float]
    subtask_max: float = field(metadata=AVERAGED)
    folders: list[str]
    seeds: int = 1
    score_sd: float | None = None
    vs_full: Difference | None = None
    vs_random: Difference | None = None
    vs_named: Difference | None = None
    split: Split | None = None
    uncompared: dict[str, str] = field(default_factory=dict)
    answers: Answers | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Everything that is plain values, nested, for JSON; the comparison with what was named only where there is one."""
        left_out = {"answers"} if self.vs_named else {"answers", "vs_named"}
        return asdict(
            replace(self, answers=None), dict_factory=lambda pairs: {k: v for k, v in pairs if k not in left_out}
        )

    @property
    def is_random(self) -> bool:
        """Whether chance alone chooses what this plan keeps."""
        return all(re.match(r"random(\W|$)", stage) for stage in self.method.split("+"))

    @property
    def sites(self) -> list[str]:
        """Layers or sites of the plan's stages."""
        return re.findall(r"@([^,+]+)", self.method)

    @property
    def results(self) -> Path:
        """The folder of results that the run belongs to."""
        return Path(self.folders[0]).parent


@dataclass(frozen=True)
class Named:
    """What every plan is also compared with: a ``run``, a plan, or a method, of which it is the run at the plan's own cost."""

    text: str
    run: Row | None = None

    def of(self, row: Row, rows: Sequence[Row]) -> list[Row]:
        """The run for a row of a board, the nearest in cost first; empty where there is none."""
        if self.run is not None:
            return [self.run]
        one = [other for other in rows if other.plan == self.text]
        return one or _near_in_cost(row, [other for other in rows if other.method == self.text])


def boards(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows by task and model: those of one table, one figure, and one family of comparisons."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.model), []).append(row)
    return groups


def compared(rows: Sequence[Row], margin: float = MARGIN, named: Named | None = None) -> list[Row]:
    """The rows of one board, each compared with full, with random at its own cost, and with what is ``named``.

    p is corrected for all comparisons. margin: points within which two runs are called equivalent.
    """
    results = [_with_all(row, rows, margin, named) for row in rows]
    made = [(index, name) for index, row in enumerate(results) for name in COMPARISONS if getattr(row, name)]
    corrected = holm([getattr(results[index], name).p for index, name in made])
    for (index, name), p in zip(made, corrected, strict=True):
        results[index] = replace(results[index], **{name: replace(getattr(results[index], name), p_holm=p)})
    return results


def split_rows(rows: Sequence[Row], control: str, named: Row | None = None) -> list[Row]:
    """The rows of one board, each split into hard and easy questions by a control that was asked the same.

    named: the run of the control, for all rows. Without it ``control`` is a plan, or a method of several runs
    (``downsample``): each row is split by the run whose mean visual tokens are nearest to its own, within 20 %; where
    all rows that have such a run have the same one, it splits the others too. A row without a control keeps ``split``
    None. Raises ValueError for a control of several seeds.
    """
    candidates = [named] if named else [row for row in rows if control in (row.plan, row.method)]
    controls = [named or _nearest(row, candidates) for row in rows]
    used = {other.plan: other for other in controls if other is not None}
    if len(used) == 1:
        controls = [next(iter(used.values()))] * len(rows)
    return [_split(row, other) for row, other in zip(rows, controls, strict=True)]


def seeds_together(rows: Sequence[Row]) -> list[Row]:
    """The rows, with those of one plan that differ only in their seed merged into one."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        questions = (row.answers.asked, row.answers.settings) if row.answers else row.folders[0]
        key = (row.task, row.model, row.template, row.results, SEED.sub("", row.plan), questions)
        groups.setdefault(key, []).append(row)
    return [_mean(group) if len(group) > 1 else group[0] for group in groups.values()]


def _with_all(row: Row, rows: Sequence[Row], margin: float, named: Named | None) -> Row:
    """A row with all its comparisons, p not corrected."""
    row = _against(row, [other for other in rows if other.method == "full"], "vs_full", "full", margin)
    row = _against(row, _random(row, rows), "vs_random", "random", margin)
    return row if named is None else _against(row, named.of(row, rows), "vs_named", named.text, margin)


def _against(row: Row, others: Sequence[Row], comparison: str, name: str, margin: float) -> Row:
    """The row compared with the first of the others that was asked the same, or with the reason why it is not.

    comparison: one of COMPARISONS. name: what the others are called in the reason.
    """
    others = [other for other in others if other.folders != row.folders]
    if row.method == "full" or not others:
        return row
    reason = ""
    for other in sorted(others, key=lambda other: other.results != row.results):
        if row.answers is None or other.answers is None:
            return replace(row, uncompared={**row.uncompared, name: "no predictions.jsonl"})
        hindrance = obstacle(row.answers, other.answers)
        if hindrance is None:
            return replace(row, **{comparison: difference(row.answers, other.answers, other.plan, margin)})
        reason = reason or hindrance
    return replace(row, uncompared={**row.uncompared, name: reason})


def _random(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The random controls that see as many visual tokens per layer, those with stages at the same sites first."""
    if row.is_random or row.method in REFERENCES:
        return []
    near = _near_in_cost(row, [other for other in rows if other.is_random])
    return sorted(near, key=lambda other: other.sites != row.sites)


def _near_in_cost(row: Row, others: Sequence[Row]) -> list[Row]:
    """Those that see as many visual tokens per layer, the nearest first."""
    if not row.visual_tokens:
        return []
    excess = [(abs((other.visual_tokens or 0) / row.visual_tokens - 1), other) for other in others]
    near = [pair for pair in excess if pair[0] <= SAME_COST]
    return [other for _, other in sorted(near, key=lambda pair: pair[0])]


def _nearest(row: Row, candidates: Sequence[Row]) -> Row | None:
    """The candidate whose cost is nearest to a row's, if it is near."""
    costs = [
        (abs(other.visual_tokens - (row.visual_tokens or 0)), other) for other in candidates if other.visual_tokens
    ]
    apart, nearest = min(costs, key=lambda cost: cost[0], default=(math.inf, None))
    return nearest if apart <= NEAR_COST * (row.visual_tokens or 0) else None


def _split(row: Row, control: Row | None) -> Row:
    """The row with its split; unchanged where one of the two has no answers, or other questions."""
    if control is None or row.answers is None or control.answers is None or row.answers.asked != control.answers.asked:
        return row
    return replace(row, split=split_answers(row.answers, control.answers, control.plan))


def _mean(rows: Sequence[Row]) -> Row:
    """The mean of several seeds. A score that is no sum over pictures gets the mean of the intervals' ends."""
    answers = Answers.merged([row.answers for row in rows if row.answers])
    means: dict[str, float | None] = {}
    for name in (member.name for member in fields(Row) if member.metadata.get("averaged")):
        values = [getattr(row, name) for row in rows]
        means[name] = None if None in values else float(np.mean(values))
    ends = np.mean([row.score_interval for row in rows], axis=0).tolist()
    ranges = [bound for row in rows for bound in row.visual_tokens_range or ()]
    return replace(
        rows[0],
        **means,
        plan=SEED.sub("", rows[0].plan),
        method=SEED.sub("", rows[0].method),
        score_interval=score_interval(answers.score) if answers.score else containing(means["score"] or 0.0, ends),
        accuracy_interval=score_interval(answers.accuracy),
        visual_tokens_range=[min(ranges), max(ranges)] if ranges else None,
        failed=max(row.failed for row in rows),
        subtasks={name: float(np.mean([row.subtasks[name] for row in rows])) for name in rows[0].subtasks},
        folders=[folder for row in rows for folder in row.folders],
        seeds=len(rows),
        score_sd=float(np.std([row.score for row in rows], ddof=1)),
        answers=answers,
    )

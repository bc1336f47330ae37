"""What the page and the Markdown of a leaderboard both say: methods by mean, what is within noise, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..report import notes as report_notes
from ..report.rows import REFERENCES, Row
from ..report.table import by_interval_alone
from ..tasks.statistics import INDISTINCT
from .agreement import Agreement
from .board import SPLIT, Entry

PREFERRED = 64  # the mean that tables are sorted by, where they have it


@dataclass(frozen=True)
class Line:
    """One method with its cells in the order of the means; full and blind stand in all of them."""

    name: str
    kind: str
    places: list[Entry | None]

    @staticmethod
    def verdict(entry: Entry | None) -> str:
        """``better`` or ``worse`` than random tokens at that cost, after correction for all comparisons; else nothing."""
        versus = entry.row.vs_random if entry and entry.row else None
        if versus is None or versus.verdict == INDISTINCT or by_interval_alone(versus):
            return ""
        return versus.verdict


def matrix(entries: Sequence[Entry], means: Sequence[int]) -> list[Line]:
    """The methods of one model and task: full and blind first, then by score at 64 tokens or the mean most have."""
    by_name: dict[str, dict[int | None, Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, {})[entry.mean] = entry
    counts = {mean: sum(bool((at := found.get(mean)) and at.row) for found in by_name.values()) for mean in means}
    first = max(means, key=lambda mean: (counts[mean], mean == PREFERRED), default=None)

    def rank(name: str) -> tuple[bool, float, float]:
        scores = {mean: entry.row.score for mean, entry in by_name[name].items() if entry.row}
        best = max(scores.values(), default=float("-inf"))
        return name not in REFERENCES, -scores.get(first, float("-inf")), -best

    lines = []
    for name in sorted(by_name, key=rank):
        found = by_name[name]
        places = [found.get(None) or found.get(mean) for mean in means]
        lines.append(Line(name, next(iter(found.values())).kind, places))
    return lines


def noise_lines(entries: Sequence[Entry]) -> list[str]:
    """For each mean, largest first, the methods that may be the best of it."""
    sentences = []
    for mean in sorted({entry.mean for entry in entries if entry.mean is not None}, reverse=True):
        judged = [entry for entry in entries if entry.mean == mean and entry.contender is not None]
        names = [entry.name for entry in judged if entry.contender]
        if len(judged) > 1:
            most = max(judged, key=lambda entry: entry.row.score if entry.row else 0.0).name
            sentences.append(
                f"At {mean}, {len(names)} of {len(judged)} may be the best: {', '.join(names)}. "
                + (f"{most} scores the most." if len(names) > 1 else "All others are behind it.")
            )
    return sentences


def missing_lines(entries: Sequence[Entry]) -> list[str]:
    """Why cells are empty, those with the same reason together; a mean that none has is said once."""
    by_reason: dict[str, dict[str, list[int]]] = {}
    for entry in entries:
        if entry.row is None:
            means = by_reason.setdefault(entry.reason or "not measured yet", {}).setdefault(entry.name, [])
            means += [entry.mean] if entry.mean is not None else []
    if len(by_reason) == 1 and not any(entry.row for entry in entries):
        return [f"{reason}: no cell is measured." for reason in by_reason]
    methods = {entry.name for entry in entries if entry.mean is not None}
    sentences = []
    for reason, names in by_reason.items():
        held = dict.fromkeys(mean for means in names.values() for mean in means)
        nowhere = [mean for mean in held if all(mean in names.get(name, ()) for name in methods)]
        places = [f"every method at {_listed(nowhere)}"] if nowhere else []
        for name, means in names.items():
            rest = [mean for mean in means if mean not in nowhere]
            if rest or not means:
                places.append(f"{name} at {_listed(rest)}" if rest else name)
        sentences.append(f"{reason}: {'; '.join(places)}.")
    return sentences


def _listed(means: Sequence[int]) -> str:
    *first, last = map(str, means)
    return f"{', '.join(first)} and {last}" if first else last


def agreement_lines(agreements: Sequence[Agreement]) -> list[str]:
    """Every rank correlation in a sentence."""
    return [
        f"{each.first} and {each.second} on {each.within}{f' at {each.mean}' if each.mean else ''}: tau {each.tau:.2f} "
        f"[{each.interval[0]:.2f}, {each.interval[1]:.2f}] of about {each.attainable:.2f} attainable, {each.methods} methods"
        for each in agreements
    ]


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the leaderboard must know, the report's own notes after it."""
    return [
        "Every plan's budget is chosen so that its mean of visual tokens over the decoder's layers is that of the column, "
        "within 5 %; mean and tokens entering are as measured. A smaller picture (downsample) has the nearest square.",
        "Marked as better or worse: than random tokens at the same mean, by the paired interval and by the exact McNemar test "
        "after Holm's correction for all comparisons of that model and task.",
        "● may be the best at its mean: multiple comparisons with the best by bootstrap over pictures, at 95 % for each mean. "
        "Methods with the mark cannot be told from the best by these questions.",
        f"Group A (VTC-Bench): the accuracy on the questions that {SPLIT} answers wrongly at about the same cost.",
        "The Pareto front: runs than which none scores more at the same cost or less.",
        "tau: Kendall's tau-b of two rankings of the same methods, with a 95 % interval by Fisher's z, pictures and methods "
        "resampled. Chance moves the scores, which draws tau towards 0; attainable is about the tau that two rankings would show "
        "that are equal in truth.",
        *report_notes.notes(rows),
    ]

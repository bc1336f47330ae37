"""What is drawn of a sweep over layers: the panels of each benchmark."""

from __future__ import annotations

from collections.abc import Callable

from llava.eval.report.panels import Panel, Point

from .sweep import Outcome, Sweep
from .tables import half_score


def accuracy_panel(sweep: Sweep) -> Panel:
    """Accuracy at every layer, in per cent."""

    def point(outcome: Outcome) -> Point:
        metrics = outcome.metrics
        return 100 * metrics["accuracy"], [100 * bound for bound in metrics["accuracy_interval"]]

    return Panel("accuracy, %", *points(sweep, point))


def total_panel(sweep: Sweep) -> Panel:
    """The benchmark's score at every layer."""
    limit = sweep.references["full"].metrics["max_score"]
    return Panel(f"total score, of {limit:g}", *points(sweep, lambda outcome: half_score(outcome, "total")))


def halves_panel(sweep: Sweep) -> Panel:
    """MME's perception and cognition at every layer."""
    full, curves, references = sweep.references["full"].metrics, {}, {}
    for half, suffix in (("perception", ""), ("cognition", ", cognition")):
        found = points(sweep, lambda outcome, half=half: half_score(outcome, half))
        curves |= {name + suffix: curve for name, curve in found[0].items()}
        references |= {name + suffix: point for name, point in found[1].items()}
    label = f"perception, of {full['perception_max']:g}; cognition (hollow), of {full['cognition_max']:g}"
    return Panel(label, curves, references)


def points(sweep: Sweep, point: Callable[[Outcome], Point]) -> tuple[dict[str, dict[int, Point]], dict[str, Point]]:
    """What to draw of every curve and every reference."""
    curves = {name: {at: point(outcome) for at, outcome in curve.items()} for name, curve in sweep.curves.items()}
    return curves, {name: point(outcome) for name, outcome in sweep.references.items()}

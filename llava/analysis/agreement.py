"""Whether plans keep the same tokens, and where on the picture those lie: no answer has to be right for it.

    python -m llava.analysis.agreement --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --samples-per-category 4 \
        --reduction fastv@2:64 --reduction divprune:64 --reduction random:64

writes ``agreement.json``, ``agreement.png`` (every plan against every other) and ``places.png`` (how often each patch
is kept). The patches that the last layer is given are compared. Agreement is Cohen's kappa of "kept" and "not kept"
over the patches, mean over the questions: 1 for the same patches, 0 for what chance has in common at these budgets,
less for plans that avoid one another. A plan that favours a side of the picture shows in the mean row and column of
what it keeps, 0.5 where it favours none.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from llava.cli.console import launch
from llava.eval.ask.record import kept_patches
from llava.eval.ask.subject import Generation, Reply
from llava.eval.tasks.base import Line
from llava.reduction import Stage, check_plan, plan_from, plan_name

from .command import analysis_settings, common_parser
from .figures import COLOUR_MAP, draw_table, layer_curve
from .observe import Measured, MeasuringSubject
from .session import AnalysisSettings, Session


class Keeper(MeasuringSubject):
    """Answers as ``subject`` does; what is measured is which of the picture's patches the last layer is given, (N,) bool."""

    def answer(
        self, texts: Sequence[str], features: Sequence, plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """Replies, each ``Measured`` with that one entry. Raises ValueError for pictures of several crops."""
        replies = self.subject.answer(texts, features, plan, generation)
        trace, measured = self.subject.model.last_trace, []
        for row, (reply, feature) in enumerate(zip(replies, features, strict=True)):
            if not feature.seen.plain:
                raise ValueError("a picture of several crops has no single grid of patches; give a model that sees one")
            kept = np.zeros(feature.seen.patches, dtype=bool)
            kept[[np.arange(len(kept)), *kept_patches(trace, len(kept), row, row)][-1]] = True
            measured.append(Measured(**vars(reply), layers=[kept]))
        return measured


def kappa(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cohen's kappa of two choices among N patches, (..., N) bool: (...); NaN where both keep all, or both nothing.

    (p - e) / (1 - e), p the share of the patches about which both say the same and e what it is by chance (Cohen 1960).
    """
    same = (one == other).mean(-1)
    first, second = one.mean(-1), other.mean(-1)
    chance = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore"):
        return np.where(chance < 1, (same - chance) / np.where(chance < 1, 1 - chance, 1), np.nan)


def places(kept: np.ndarray) -> np.ndarray:
    """Mean row and column of the patches that are kept, from 0 at the top left to 1: (..., N) bool -> (..., 2).

    NaN where nothing is kept.
    """
    side = math.isqrt(kept.shape[-1])
    share = (np.arange(side) + 0.5) / side
    grid = kept.reshape(*kept.shape[:-1], side, side)
    count = np.where(kept.any(-1), kept.sum(-1), np.nan)
    return np.stack([(grid.sum(-1) @ share) / count, (grid.sum(-2) @ share) / count], axis=-1)


def run(settings: AnalysisSettings, plans: Sequence[str]) -> None:
    """Ask every question under every plan, compare what was kept and write files.

    Raises ValueError for fewer than two plans, two that are the same, or one that acts before the tower has seen the patches.
    """
    session = Session(settings)
    chosen = [plan_from(plan) for plan in plans]
    names = [plan_name(plan) for plan in chosen]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"--reduction {', '.join(names) or 'is missing'}: give two plans or more, each once")
    for plan, name in zip(chosen, names):
        check_plan(plan, session.layers)
        if any(stage.site in ("tower", "pixels") for stage in plan):
            raise ValueError(f"--reduction {name} chooses among no patches that the tower has seen; give other plans")
    lines, kept = _kept(session, chosen)
    pairs = [[_interval(kappa(one, other), lines) for other in kept[: number + 1]] for number, one in enumerate(kept)]
    agreement = np.array([[pairs[max(i, j)][min(i, j)][0] for j in range(len(kept))] for i in range(len(kept))])
    where = places(kept)
    content = {
        "samples": len(lines),
        "plans": names,
        "kappa": agreement,
        "kappa_interval": pairs,
        "tokens": kept.sum(-1).mean(1),
        "row": [_interval(one, lines) for one in where[..., 0]],
        "column": [_interval(one, lines) for one in where[..., 1]],
    }
    title = f"Agreement on {len(lines)} samples"
    numbered = [f"{name}  {number}" for number, name in enumerate(names)]
    figures = {
        "agreement": draw_table(
            agreement, title, "plan", "", "Cohen's kappa", numbered, limits=(min(0, agreement.min()), 1)
        ),
        "places": draw_places(kept.mean(1), names, f"How often each patch is kept: {len(lines)} samples"),
    }
    session.save("agreement", content, figures)


def _kept(session: Session, plans: Sequence[list[Stage]]) -> tuple[list[Line], np.ndarray]:
    """A line for every question that could be asked, and what each plan kept of it: (plans, n, N) bool."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for number, example, reply in session.ask_under(plans, Keeper(session.subject), max_new_tokens=1):
        found.setdefault(example.key, {})[number] = reply.layers[0]
    examples = [example for example in session.examples if len(found.get(example.key, ())) == len(plans)]
    if not examples:
        raise ValueError(f"no picture of {session.task.data} could be read; the warnings above say why")
    kept = [[found[example.key][number] for example in examples] for number in range(len(plans))]
    return [session.line(example) for example in examples], np.array(kept)


def _interval(values: np.ndarray, lines: Sequence[Line]) -> tuple[float, list[float]]:
    """Mean over the samples (n,), and its 95 % bootstrap interval over their pictures; NaN are left out."""
    real = np.isfinite(values)
    if not real.any():
        return math.nan, [math.nan, math.nan]
    return layer_curve(values[real, None], [line for line, here in zip(lines, real) if here])[0]


def draw_places(shares: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """How often every patch is kept, a picture for each plan: (plans, N) in [0, 1]."""
    side = math.isqrt(shares.shape[1])
    across = min(4, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(2.9 * across, 3.1 * down), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes = figure.subplots(down, across, squeeze=False)
    for place, name, share in zip(axes.flat, names, shares):
        place.imshow(share.reshape(side, side), cmap=COLOUR_MAP, vmin=0, vmax=shares.max())
        place.set_title(name, fontsize=7)
    for place in axes.flat:
        place.set_axis_off()
    figure.colorbar(axes[0, 0].images[0], ax=axes, label="share of the samples")
    return figure


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = common_parser("agreement", "Whether plans keep the same tokens.", "agreement_results")
    flags.add_argument(
        "--reduction",
        dest="plans",
        metavar="PLAN",
        action="append",
        default=[],
        help="a plan such as fastv@2:64; two or more",
    )
    return flags


def work(options: argparse.Namespace) -> None:
    """Run what a command line asks for."""
    run(analysis_settings(options), options.plans)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), work, arguments, stopped=None)


if __name__ == "__main__":
    sys.exit(main())

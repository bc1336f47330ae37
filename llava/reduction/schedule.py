"""Schedules: what several stages under one name share. They are published for 32 layers and pictures of 24 x 24 tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

LAYERS = 32
TOKENS = 24 * 24


def scaled_layers(published: Sequence[int], layers: int) -> list[int]:
    """The layers of a schedule for 32 layers, ascending, in a decoder of ``layers``: the same depths, no two alike.

    Raises ValueError for a decoder that is too shallow for this many stages.
    """
    if len(published) >= layers:
        raise ValueError(
            f"a schedule of {len(published)} stages needs more than the {layers} layers of this model; write the stages that"
            " you want, as in fastv@1:64"
        )
    wanted = [max(1, round(layer * layers / LAYERS)) for layer in published]
    for number in range(1, len(wanted)):
        wanted[number] = max(wanted[number], wanted[number - 1] + 1)
    last = layers
    for number in reversed(range(len(wanted))):
        last = wanted[number] = min(wanted[number], last - 1)
    return wanted


def label_counts(label: int | float, published: Mapping[int, Sequence[int]]) -> list[int] | list[float]:
    """The budgets of each stage under a paper's label: its own list, between two labels what lies between their lists.

    ``published``: for each label the tokens kept at each stage, of 576. Below the smallest label the lists shrink in
    proportion, above the largest they grow towards all tokens. A label that is a share of the picture gives shares of what
    arrives at each stage.
    """
    lists = {0: [0] * len(next(iter(published.values()))), **published}
    lists[TOKENS] = [TOKENS] * len(lists[0])
    labels = sorted(lists)
    wanted = label if isinstance(label, int) else label * TOKENS
    upper = labels[min(bisect_left(labels, wanted), len(labels) - 1)]
    if wanted >= upper:
        between = [float(count) for count in lists[upper]]
    else:
        lower = labels[labels.index(upper) - 1]
        part = (wanted - lower) / (upper - lower)
        between = [low + part * (high - low) for low, high in zip(lists[lower], lists[upper])]
    if isinstance(label, int):
        return [round(count) for count in between]
    arriving = [float(TOKENS), *between]
    return [count / before if before else 0.0 for before, count in zip(arriving, between)]


def mean_share(share: float, spans: Sequence[float]) -> float:
    """The mean share of tokens over the layers when each stage keeps ``share`` of what arrives; ``spans``: of each stretch."""
    return sum(span * share**stage for stage, span in enumerate(spans))


def share_for(keep: int | float, published: Sequence[int], name: str, end: int = LAYERS) -> float:
    """The share that each stage keeps so that the mean over the layers is ``keep``, a share or a count of 576.

    ``published``: the layers of 32 at which the stages stand; nothing is counted from ``end`` on. Raises ValueError for
    a mean that is out of reach, since the layers before the first stage see everything.
    """
    wanted = keep / TOKENS if isinstance(keep, int) else keep
    edges = [0, *published, end]
    spans = [(after - before) / LAYERS for before, after in zip(edges, edges[1:])]
    if not spans[0] <= wanted <= sum(spans):
        raise ValueError(
            f"keep={keep!r} of {name} cannot be the mean over the layers: with a first stage at layer {published[0]} of {LAYERS}"
            f" it lies between {spans[0]:.2f} and {sum(spans):.2f} of the tokens; give another, or write the stages yourself"
        )
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_share(middle, spans) < wanted else (low, middle)
    return high

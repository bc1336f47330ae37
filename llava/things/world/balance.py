"""Weights by which the wrong half of a question is drawn, so that its words tell nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")
Named = TypeVar("Named", bound=Hashable)
STEPS = 200  # after which weights hardly change


def pick(rng: np.random.Generator, options: Sequence[Option], weights: Iterable[float] | None = None) -> Option:
    """One of the options at random, by weight where weights are given."""
    if weights is None:
        return options[int(rng.integers(len(options)))]
    shares = np.fromiter(weights, float)
    return options[int(rng.choice(len(options), p=shares / shares.sum()))]


def counterweights(shares: dict[Named, float], near: Callable[[Named, Named], bool]) -> dict[Named, float]:
    """Weights by which the wrong half is drawn so that each option is as often wrong as it is right.

    shares: how often an option is the right half. near: whether two options are too near to be halves of one pair. The weights s
    fulfil s[a] * sum(s[b] for b that may stand beside a) = shares[a], so that (a, b) is as likely as (b, a).
    """
    options = list(shares)
    beside = np.array([[float(one != other and not near(one, other)) for other in options] for one in options])
    wanted = np.array([shares[option] for option in options])
    weights = np.sqrt(wanted)
    for _ in range(STEPS):
        weights = np.sqrt(weights * wanted / np.maximum(beside @ weights, 1e-9))
    return dict(zip(options, weights.tolist()))


def pick_wrong(
    right: Named, weights: dict[Named, float], near: Callable[[Named, Named], bool], rng: np.random.Generator
) -> Named | None:
    """An option beside the right one by ``counterweights``, None where all others are too near."""
    others = [option for option in weights if option != right and not near(right, option)]
    return pick(rng, others, (weights[option] for option in others)) if others else None


def fitted(right: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the options as right and as wrong halves, so that each is equally often right and wrong.

    right, wrong: (scenes, options) bool, which options may be the right and the wrong half in a sample of scenes.
    """
    usable = right.any(1) & wrong.any(1)
    right, wrong = right[usable].astype(float), wrong[usable].astype(float)
    weights = [np.ones(right.shape[1]), np.ones(right.shape[1])]
    for _ in range(STEPS):
        often = [
            (share := may * weight / (may * weight).sum(1, keepdims=True)).mean(0) + 1e-9 * share.size
            for may, weight in zip((right, wrong), weights)
        ]
        ratio = (often[1] / often[0]) ** 0.5
        weights = [np.clip(weights[0] * ratio, 1e-6, 1e6), np.clip(weights[1] / ratio, 1e-6, 1e6)]
    return weights[0], weights[1]

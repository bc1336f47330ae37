"""Measurements by category, and as plain values for a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llava.eval.tasks.base import Line

DIGITS = 5  # significant ones of every number in a JSON file


def by_category(lines: Sequence[Line], values: np.ndarray) -> dict[str, np.ndarray]:
    """Values (n, ...) of n lines, grouped by category in order of first appearance."""
    categories = np.array([line["category"] for line in lines])
    return {str(name): values[categories == name] for name in dict.fromkeys(categories.tolist())}


def rounded(content: Any) -> Any:
    """Plain values for JSON: arrays as lists, numbers to five significant digits, what is not a number as null."""
    if isinstance(content, dict):
        return {str(name): rounded(value) for name, value in content.items()}
    if isinstance(content, np.ndarray | list | tuple):
        return [rounded(value) for value in content]
    if isinstance(content, bool | np.bool_):
        return bool(content)
    if isinstance(content, int | np.integer):
        return int(content)
    if isinstance(content, float | np.floating):
        return float(f"{content:.{DIGITS}g}") if np.isfinite(content) else None
    return content

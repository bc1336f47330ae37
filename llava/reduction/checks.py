"""Checks of arguments, and the words of their errors: values of bounded length, and the nearest known name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from reprlib import Repr
from typing import TypeGuard

MOST = 2**63 - 1  # the largest whole number that a tensor holds

_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 120, 120, 60


def shown(value: object) -> str:
    """``repr(value)``, cut where it is long or deep, so that no message grows with what it complains about."""
    return _SHORT.repr(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a mistyped word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6) if len(word) < 100 else []
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is an int that a tensor holds; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and -MOST <= value <= MOST


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a whole number (``is_whole``) or a finite float."""
    return is_whole(value) or isinstance(value, float) and math.isfinite(value)


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a value that is not one of the allowed words."""
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        near = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise ValueError(f"{name}={shown(value)} is unknown{near}; choose one of {', '.join(allowed)}")


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least ``least``."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}={shown(value)} must be a whole number of at least {least}")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={shown(value)} must be true or false")

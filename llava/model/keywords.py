"""Unknown keywords raise: a misspelt one that is swallowed silently changes the answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Set
from typing import Any

from transformers.utils.generic import TransformersKwargs

from llava.reduction import did_you_mean

# What every forward of transformers takes besides its named arguments
FORWARD: frozenset[str] = frozenset(TransformersKwargs.__annotations__) | {"return_dict", "shift_labels"}


class UnknownKeywordError(TypeError, ValueError):
    """A keyword that nobody reads: a TypeError as Python's own, a ValueError as every refusal of this package."""


def refuse_unknown(function: str, keywords: Mapping[str, Any], known: Set[str]) -> None:
    """Raises UnknownKeywordError for the first of ``keywords`` that is not ``known``, with the nearest names."""
    for keyword in keywords:
        if keyword not in known:
            raise UnknownKeywordError(
                f"{function} does not know {keyword}={_short(keywords[keyword])}{did_you_mean(keyword, known)}"
            )


def named(function: Callable[..., Any]) -> set[str]:
    """The names of a function's own arguments."""
    return set(inspect.signature(function).parameters) - {"self", "kwargs"}


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"<{type(value).__name__}>"
    return text if len(text) <= 60 else f"{text[:57]}..."

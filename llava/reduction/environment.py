"""The plan of programs that cannot pass one on: the environment variable ``LLAVA_REDUCTION``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .plan import plan_from

logger = logging.getLogger(__name__)

VARIABLE = "LLAVA_REDUCTION"


def environment_plan() -> str | None:
    """The plan in ``LLAVA_REDUCTION``, a short spelling or a YAML file; None where it is not set or empty.

    A warning says so, once for every plan. Raises ValueError naming the variable for something that is not a plan, and
    FileNotFoundError for a file that is not there.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        plan_from(text)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{VARIABLE}: {error}; correct the variable or unset it") from None
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {error}; correct the variable or unset it") from None
    _warn_once(text)
    return text


def with_environment(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """A caller's reduction knobs; where none of them asks for anything, with the plan of ``LLAVA_REDUCTION``.

    None and False ask for nothing; ``reduction=""`` asks for no reduction. Raises as ``environment_plan`` does.
    """
    if any(value is not None and value is not False for value in knobs.values()):
        return dict(knobs)
    plan = environment_plan()
    return dict(knobs) if plan is None else {**knobs, "reduction": plan}


@lru_cache(maxsize=256)
def _warn_once(plan: str) -> None:
    logger.warning(
        "%s=%s: the plan of every model that is given no other, also in place of its config's", VARIABLE, plan
    )

"""Plans from anybody: they may name neither a file nor a folder of this machine."""

from __future__ import annotations

import json
import re
from typing import Any

from llava.reduction import Stage, plan_from


def stranger_plan(spec: str | dict[str, Any] | list[Any]) -> list[Stage]:
    """The plan of a request. Raises ValueError for something that is not a plan, and for a plan that names a file."""
    if isinstance(spec, str) and re.search(r"\.ya?ml\s*$", spec) or "weights" in json.dumps(spec):
        raise ValueError("a plan from outside cannot name files (weights, YAML); write one such as fastv@2:64")
    try:
        return plan_from(spec)
    except TypeError as error:  # a constructor that was given something of another kind
        raise ValueError(str(error)) from None

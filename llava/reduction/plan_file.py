"""Plans in YAML files: the key ``reduction``, with a list of stages or a short spelling.

A file may also hold ``budgets``, a paper's plans by their labels: ``{"64": visionzip:64}``. It is read strictly
(``llava.files.read_yaml``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llava.files import read_yaml
from llava.shipped import shipped

from .checks import shown


def read_plan_file(file: Path) -> dict[str, Any]:
    """What a plan file holds, ``reduction`` and perhaps ``budgets``.

    The plan files of ``configs/methods`` are found from everywhere. Raises FileNotFoundError, and ValueError naming file and fault.
    """
    file = shipped(file)
    if not os.path.isfile(file):
        raise FileNotFoundError(f"no plan file {shown(str(file))}")
    content = read_yaml(file)
    if not isinstance(content, dict) or "reduction" not in content or set(content) - {"reduction", "budgets"}:
        raise ValueError(
            f"{file} must hold the key 'reduction', with a list of stages, and may hold 'budgets', plans by their labels"
        )
    return content

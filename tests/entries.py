"""What ``python -m NAME`` runs."""

from __future__ import annotations

import importlib
from types import ModuleType


def entry(name: str) -> ModuleType:
    """The module of that name; of a package its ``__main__``."""
    module = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module

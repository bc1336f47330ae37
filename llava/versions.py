"""The versions of transformers that the tests run on: the oldest, the newest, and what lies between."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version

OLDEST, NEWEST = (5, 17), (5, 24)
TESTED = f"transformers {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"


def check_transformers(installed: str | None = None) -> None:
    """Raises ImportError for a transformers older than the oldest tested, warns once for one newer than the newest.

    installed: its version, None for the installed one; without any there is no complaint. Releases of transformers
    rename keywords, and a forward that is called by a new name decodes nonsense without an error.
    """
    if installed is None:
        try:
            installed = version("transformers")
        except PackageNotFoundError:
            return
    minor = tuple(int(part) for part in installed.split(".")[:2])
    if minor < OLDEST:
        raise ImportError(
            f"transformers {installed} is too old, this package is tested on {TESTED}; pip install -U transformers"
        )
    if minor > NEWEST:
        warnings.warn(
            f"transformers {installed} is newer than what this package is tested on ({TESTED}); compare a few answers, or "
            f"pip install 'transformers<{NEWEST[0]}.{NEWEST[1] + 1}'",
            stacklevel=2,
        )

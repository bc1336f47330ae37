"""Writes the page of methods: ``python -m llava.reduction > docs/methods.md``."""

from __future__ import annotations

import sys

from .registry import method_page


def main() -> None:
    sys.stdout.write(method_page())


if __name__ == "__main__":
    main()

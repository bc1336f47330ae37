"""Writes the pages about methods: ``python -m llava.reduction methods > docs/methods.md``."""

from __future__ import annotations

import argparse
import sys

from .accounting import accounting_page
from .registry import method_page

PAGES = {"methods": method_page, "accounting": accounting_page}


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m llava.reduction", description="Write a page about the methods.")
    flags.add_argument("page", choices=PAGES, help="all methods, or what the papers' labels mean")
    return flags


def main() -> None:
    sys.stdout.write(PAGES[parser().parse_args().page]())


if __name__ == "__main__":
    main()

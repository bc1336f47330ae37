"""The table of hosts: ``llava hosts``, or ``python -m llava.model.hosts``."""

from __future__ import annotations

import argparse
import sys

from .table import host_table


def parser() -> argparse.ArgumentParser:
    """There are no flags; any argument is an error."""
    return argparse.ArgumentParser(prog="llava hosts", description="Print which models of transformers plans run on.")


def main() -> None:
    """Write the table to stdout."""
    parser().parse_args()
    sys.stdout.write(host_table())


if __name__ == "__main__":
    main()

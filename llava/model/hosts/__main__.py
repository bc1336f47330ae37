"""Prints the table of hosts: ``python -m llava.model.hosts``."""

from __future__ import annotations

import sys

from .table import host_table

if __name__ == "__main__":
    sys.stdout.write(host_table())

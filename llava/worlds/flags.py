"""The flags of a command that exports a world."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def add_export_flags(flags: argparse.ArgumentParser, images: Mapping[str, int]) -> argparse.ArgumentParser:
    """Adds layout, folder, number of pictures and seed; ``images`` are the layouts with their usual numbers."""
    flags.add_argument("--format", choices=tuple(images), default="mme")
    flags.add_argument("--output", required=True, help="folder to make")
    usual = ", ".join(f"{name} {number}" for name, number in images.items())
    flags.add_argument("--images", type=int, help=f"pictures; for mme of shapes, of each subtask (default {usual})")
    flags.add_argument("--seed", type=int, default=0)
    return flags

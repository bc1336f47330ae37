"""Worlds of synthetic pictures about which every answer is certain, written in the layouts of real benchmarks."""

from .protocol import Drawn, World

__all__ = ["Drawn", "World"]

"""What ``python -m NAME``, ``python scripts/NAME.py`` and ``llava NAME`` run."""

from __future__ import annotations

import importlib
import importlib.util
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import click

from llava.cli.main import Module, llava

ROOT = Path(__file__).parents[1]


def entry(name: str) -> ModuleType:
    """The module of that name; of a package its ``__main__``."""
    module = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module


def load(path: str) -> ModuleType:
    """A file of the repository that belongs to no package, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(words: Sequence[str]) -> tuple[ArgumentParser, list[str]]:
    """The parser of what python is told to run, ``-m module`` or a script, and what is left for it to read."""
    if words[0] == "-m":
        return entry(words[1]).parser(), list(words[2:])
    return load(words[0]).parser(), list(words[1:])


def subcommand(words: Sequence[str]) -> tuple[ModuleType, list[str]]:
    """The module that ``llava`` runs for these words, commands of commands too, and what is left for it to read."""
    command: click.Command = llava
    left = list(words)
    while isinstance(command, click.Group):
        command = command.commands[left.pop(0)]
    assert isinstance(command, Module)
    return entry(command.module), left

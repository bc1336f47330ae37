"""Folders that are complete or absent, and that record what they were made from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava.files import read_json


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` to write into, which takes its name when the block ends well and is gone when it does not.

    ``output`` may be there if it is empty; the folders above it are made.
    """
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if output.exists():
            output.rmdir()
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_made(output: Path, mark: str, made: dict[str, Any], kind: str, verb: str) -> bool:
    """Whether ``output`` is complete and was made from the same; an empty folder, or none, was not.

    mark: the JSON file in it that says what it was made from. made: what is asked for. kind, verb: what such a folder
    is called and how it comes to be, for the message ("build", "built"). Raises ValueError where it holds something
    else.
    """
    if not output.exists() or output.is_dir() and not any(output.iterdir()):
        return False
    found = read_json(output / mark) if (output / mark).is_file() else None
    if found == made:
        return True
    held = f"something that was not {verb} here" if found is None else f"another {kind} ({found})"
    raise ValueError(
        f"output={str(output)!r} holds {held}, asked for is {made}; give another folder or remove this one"
    )

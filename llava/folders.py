"""Folders that are complete or absent, and that record what they were made from."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava.files import excerpt, read_json, write_json


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
    held = f"something that was not {verb} here" if found is None else f"another {kind}: {differences(found, made)}"
    raise ValueError(f"output={str(output)!r} holds {held}; give another folder or remove this one")


def begin(folder: Path, mark: str, made: Mapping[str, Any]) -> None:
    """Make a folder for work that may be stopped and resumed, and write what it is made from; one begun with the same is left as it is.

    mark: the JSON file for it. made: plain values. Raises ValueError for a folder that was begun with something else, naming what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        write_json(folder / mark, made)
    if not (folder / mark).is_file():
        held = f"what is not said in {mark}"
    elif changes := differences(read_json(folder / mark), made):
        held = f"the work of another: {changes}"
    else:
        return
    raise ValueError(f"{folder} holds {held}. Give another folder, or remove that one to start again")


def differences(there: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = ()) -> str:
    """In what two descriptions of nested plain values differ, by dotted names: ``a.b is 1 there and 2 now; ...``.

    free: dotted names that may differ. Empty where they are the same.
    """
    old, new = _flat(there), _flat(now)
    return "; ".join(
        f"{name} is {excerpt(old.get(name))} there and {excerpt(new.get(name))} now"
        for name in dict.fromkeys([*old, *new])
        if name not in free and old.get(name) != new.get(name)
    )


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat

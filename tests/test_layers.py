"""Which room of the package may import which: reduction below model below eval and train below the experiments."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "llava").rglob("*.py"))
# single files that every room may use
PLAIN = {
    "absent",
    "files",
    "folders",
    "constants",
    "conversation",
    "mm_utils",
    "pictures",
    "shards",
    "shipped",
    "utils",
}
BELOW = {
    "reduction": {"files", "shipped"},
    "model": PLAIN | {"reduction"},
    "cli": PLAIN | {"reduction", "model"},
    "eval": PLAIN | {"reduction", "model", "cli"},
    "cost": PLAIN | {"reduction", "model", "cli", "eval"},
    "train": PLAIN | {"reduction", "model", "cli", "eval.tasks"},
    "serve": PLAIN
    | {"reduction", "model", "cli", "cost", "eval.tasks", "eval.ask.record", "eval.report.fading", "shapes.world"},
    "harness": PLAIN | {"reduction", "model", "cli", "cost", "serve"},
    "analysis": PLAIN | {"reduction", "model", "cli", "eval"},
    "experiments": PLAIN | {"reduction", "model", "cli", "eval", "train", "analysis"},
    "worlds": PLAIN,
    "things": PLAIN | {"reduction", "model", "cli", "eval", "train", "worlds"},
    "shapes": PLAIN | {"reduction", "model", "cli", "eval", "train", "worlds"},
}
# A documented command whose code lies in a room above.
DOORS: set[tuple[str, str]] = {
    ("llava/eval/precision.py", "experiments.precision.main"),
    ("llava/eval/precision.py", "experiments.precision.parser"),
}


def imported(path: Path) -> set[str]:
    """The modules of this package that a file imports, without ``llava.`` in front, relative imports resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            modules |= {f"{stem}.{alias.name}" for alias in node.names}
    return {name.removeprefix("llava.") for name in modules if name.startswith("llava.")}


def violations() -> set[tuple[str, str]]:
    """Every (file, module) where a room imports one that is not below it."""
    wrong = set()
    for path in SOURCES:
        parts = path.relative_to(ROOT / "llava").with_suffix("").parts
        room = parts[0]
        if room not in BELOW:
            continue
        allowed = BELOW[room] | {room}
        for name in imported(path):
            if not any(name == other or name.startswith(f"{other}.") for other in allowed):
                wrong.add((str(path.relative_to(ROOT)), name))
    return wrong


def test_every_room_is_known():
    rooms = {path.name for path in (ROOT / "llava").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms == set(BELOW)


def test_rooms_import_downwards_only():
    assert {found for found in violations() if found not in DOORS} == set()


def test_every_door_is_one():
    assert DOORS <= violations()


@pytest.mark.parametrize("name", sorted(PLAIN - {"conversation"}))
def test_single_files_stand_below_all_rooms(name):
    assert {other.partition(".")[0] for other in imported(ROOT / "llava" / f"{name}.py")} <= PLAIN


def test_templates_know_only_how_a_name_was_meant():
    modules = {name for name in imported(ROOT / "llava/conversation.py") if name.partition(".")[0] not in PLAIN}
    assert modules == {"reduction.did_you_mean"}

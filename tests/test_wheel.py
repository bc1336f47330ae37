"""What pip installs works without a checkout: the wheel is built, put into an environment of its own, and used elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path
from zipfile import ZipFile

import pytest

from llava.shipped import CHECKPOINTS, EMBEDDED, FILES, HOME, shipped

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "README.md", "LICENSE")
LARGEST = 60 * 2**20  # bytes; an index takes 100 MB

# Runs in the new environment, in an empty folder. One process, as each costs seconds of imports.
CORE = """
import os, runpy, sys
from pathlib import Path
from llava.cli.main import COMMANDS, SHAPES, THINGS

def call(module, *words, status=0):
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as ended:
        assert (ended.code or 0) == status, (module, words, ended.code)

import llava
import llava.shipped
assert llava.shipped.INSTALLED and Path(llava.__file__).is_relative_to(sys.prefix), llava.__file__
for module, _ in (*COMMANDS.values(), *SHAPES.values(), *THINGS.values()):
    call(module, "--help")
call("llava.shapes.export", "--format", "mme", "--images", "2", "--output", "drawn")
call("llava.eval.run", "--model-path", llava.shipped.EMBEDDED, "--task", "mme", "--data", "drawn", "--limit", "4",
     "--results", "results", "--no-controls", "--reduction", "full", "--reduction", "configs/methods/fastv.yaml")
call("llava.eval.run", "--model-path", "llava-shapes-v9", "--task", "mme", "--data", "drawn", status=2)
call("llava.cost", "--config", llava.shipped.EMBEDDED, "--image", "336x336", "--reduction", "fastv@2:64")
call("llava.model.hosts")
call("llava.eval.reproduce", "--list", "--method", "fastv")
call("llava.eval.leaderboard", "run", "configs/leaderboard.yaml", "--dry-run", "--model", "shapes", "--task", "boxes")
call("llava.things", "export", "--format", "boxes", "--images", "3", "--output", "things")

from llava.eval.results.folder import environment
from llava.reduction import plan_from
from llava.reduction.accounting import labels
from llava.train.merger.settings import read_settings
assert environment()["commit"] is None
assert len(list(labels())) > 50 and len(plan_from(Path("configs/methods/himap.yaml"))) == 2
assert read_settings("configs/vision_token_pruning.yaml").backbone_settings.mllm_settings.model_path
name = Path(llava.shipped.EMBEDDED).name
print("ANSWER", llava.ask(name, "playground/quickstart/picture.png", "Is there a star in the image?", reduction="pool:64"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy that holds what an installation needs and nothing else."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        shutil.copy2(ROOT / name, source)
    shutil.copytree(ROOT / "llava", source / "llava", ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in FILES:
        for file in ROOT.glob(pattern):
            copy = source / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
    pip("wheel", "--no-build-isolation", "--use-pep517", "--no-deps", "--no-index", "-w", output, source)
    (made,) = output.iterdir()
    return made


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=bare_environment())
    assert done.returncode == 0, done.stderr[-2000:]


def bare_environment() -> dict[str, str]:
    """The environment without what leads to this checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def test_the_wheel_holds_the_code_and_what_is_shipped(wheel):
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    code = {str(file.relative_to(ROOT)) for file in (ROOT / "llava").rglob("*.py")}
    assert code - names == set()
    data = {name.removeprefix("llava/data/") for name in names if name.startswith("llava/data/")}
    expected = {str(file.relative_to(ROOT)) for pattern in FILES for file in ROOT.glob(pattern)}
    assert data == expected and all(any(fnmatch(name, pattern) for name in data) for pattern in FILES[:9])
    configs = {str(file.relative_to(ROOT)) for file in (ROOT / "configs").rglob("*") if file.is_file()}
    assert len(configs) > 60 and configs - data == set()
    assert {f"{folder}/README.md" for folder in CHECKPOINTS} <= data
    pages = {str(file.relative_to(ROOT)) for file in (ROOT / "llava").rglob("*.*") if file.suffix in (".html", ".yaml")}
    assert pages - names == set()
    assert {name.split("/")[0] for name in names} == {"llava", wheel.name.split("-py3")[0] + ".dist-info"}
    assert "License: Apache-2.0" in metadata and re.search(r"^Requires-Dist: torch>=", metadata, re.M)
    assert wheel.stat().st_size < LARGEST


def test_the_core_runs_from_another_folder(wheel, tmp_path):
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    purelib = next(home.glob("lib/*/site-packages"))
    (purelib / "base.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(
        ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "m"],
        check=True,
    )
    done = subprocess.run(
        [python, "-c", CORE], cwd=elsewhere, capture_output=True, text=True, env=bare_environment() | {"COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert re.search(r"^ANSWER \S+", done.stdout, re.M)
    command = subprocess.run([home / "bin" / "llava", "--help"], cwd=elsewhere, capture_output=True, text=True)
    assert command.returncode == 0 and "train-merger" in command.stdout


def test_what_is_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Path("configs/methods/fastv.yaml")
    assert shipped(plan) == HOME / plan and shipped(Path(EMBEDDED).name) == HOME / EMBEDDED
    plan.parent.mkdir(parents=True)
    plan.touch()
    assert shipped(plan) == plan
    for name in (
        "liuhaotian/llava-v1.5-7b",
        "gpt2",
        "llava",
        "tests/conftest.py",
        str(tmp_path / "absent"),
        "",
        "a" * 999,
    ):
        assert shipped(name) == Path(name)

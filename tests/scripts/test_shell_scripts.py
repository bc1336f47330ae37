"""Shell scripts are sound, and every flag they give is one that its command line knows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.entries import entry

SCRIPTS = Path(__file__).parents[2] / "scripts"
SHELL = sorted(SCRIPTS.rglob("*.sh"))


def calls(script: Path) -> list[tuple[str, list[str]]]:
    """Module and flags of every ``python -m llava...`` of a script."""
    text = script.read_text().replace("\\\n", " ")
    found = re.findall(r"^[^#\n]*python3? -m (llava[.\w]+)([^\n|;]*)", text, flags=re.MULTILINE)
    return [(module, re.findall(r"(?<=\s)--[\w-]+", rest)) for module, rest in found]


def test_there_are_scripts():
    assert SCRIPTS / "quickstart.sh" in SHELL
    assert ("llava.shapes.export", ["--format", "--output"]) in calls(SCRIPTS / "quickstart.sh")


@pytest.mark.parametrize("script", SHELL, ids=lambda script: script.name)
def test_shell_script_parses_and_stops_at_the_first_error(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert re.search(r"^(set -euo pipefail$|source .*/environment\.sh)", script.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "flags"), [pytest.param(*call, id=call[0]) for script in SHELL for call in calls(script) if call[1]]
)
def test_flags_exist(module, flags):
    known = entry(module).parser()._option_string_actions
    assert not [flag for flag in flags if flag not in known]


@pytest.mark.parametrize(
    ("name", "module"), [("eval", "run"), ("bench", "bench.command"), ("report", "report.command")]
)
def test_thin_scripts_call_their_module(name, module):
    assert f"from llava.eval.{module} import main" in (SCRIPTS / f"{name}.py").read_text()


def steps(script: Path) -> int:
    """How many programs a script runs."""
    return len(re.findall(r"^ *(?:exec )?python ", script.read_text(), flags=re.MULTILINE))


# A script of one program hands --help on to it.
SEVERAL = [
    script for script in SHELL if script.parent == SCRIPTS and steps(script) > 1 and script.stem != "environment"
]


def test_there_are_scripts_of_several_steps():
    assert {"quickstart", "mergers", "experiments", "analysis"} <= {script.stem for script in SEVERAL}


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("script", SEVERAL, ids=lambda script: script.name)
def test_help_of_a_script_of_several_steps_does_none_of_them(script, flag, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VIRTUAL_ENV": str(tmp_path)}
    done = subprocess.run(["bash", script, flag], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and not (tmp_path / "called").exists()
    comment = [line[2:] for line in script.read_text().split("\n")[1:] if line.startswith("# ")]
    assert done.stdout.startswith(comment[0]) and f"bash scripts/{script.name}" in done.stdout

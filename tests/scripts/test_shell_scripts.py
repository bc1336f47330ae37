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

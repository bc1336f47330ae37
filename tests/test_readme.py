"""The READMEs say what is so: their example runs, their method table is the registry's, their commands parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from llava.reduction.__main__ import PAGES
from tests.entries import entry

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README_zh.md"]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_notebook_example_runs(readme, monkeypatch, capsys):
    (code,) = re.findall(r"<!-- runs as a test -->\n```python\n(.+?)```", readme.read_text(), flags=re.S)
    monkeypatch.chdir(ROOT)
    exec(compile(code, str(readme), "exec"), {})
    answer, per_layer = capsys.readouterr().out.splitlines()[:2]
    assert answer in ("plain", "striped", "dotted", "checked")
    assert "[576, 576, 64, 64" in per_layer


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_pages_are_what_the_methods_say(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert page == PAGES[name](), f"run python -m llava.reduction {name} > docs/{name}.md"


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_commands_parse(readme):
    text = readme.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:accelerate launch .*-m|python -m) (llava\.\S+.*)$", text, flags=re.M)
    for line in lines:
        name, *words = shlex.split(line.split("#")[0])
        entry(name).parser().parse_args(words)
    assert len(lines) >= 10


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_links_lead_somewhere(readme):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme.read_text()) if "://" not in link]
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []

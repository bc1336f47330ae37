"""The READMEs say what is so: short, with the figures that the quickstart prints, and badges drawn from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llava.reduction.__main__ import PAGES
from tests.entries import load

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README_zh.md"]
MARKED = re.compile(r"<!-- quickstart: the table -->\n(.+?)\n<!-- quickstart: end -->", re.S)


def blocks(page: Path) -> list[str]:
    """The Python of a page."""
    return re.findall(r"```python\n(.+?)```", page.read_text(encoding="utf-8"), flags=re.S)


def test_the_readme_can_be_read_in_three_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_first_lines_run_as_they_stand(readme, monkeypatch, capsys):
    (code,) = blocks(readme)
    assert len([line for line in code.splitlines() if line]) <= 5
    monkeypatch.chdir(ROOT)
    exec(compile(code, str(readme), "exec"), {})
    assert capsys.readouterr().out.split()


def test_the_guides_long_example_runs(monkeypatch, capsys):
    page = ROOT / "docs/guide.md"
    (code,) = re.findall(r"<!-- runs as a test -->\n```python\n(.+?)```", page.read_text(), flags=re.S)
    monkeypatch.chdir(ROOT)
    exec(compile(code, str(page), "exec"), {})
    answer, per_layer = capsys.readouterr().out.splitlines()[:2]
    assert answer in ("plain", "striped", "dotted", "checked")
    assert "[576, 576, 64, 64" in per_layer


def test_both_have_one_table():
    english, chinese = (MARKED.findall(readme.read_text(encoding="utf-8")) for readme in READMES)
    assert english == chinese and len(english) == 1
    header, _, *rows = english[0].splitlines()
    assert "against random at its cost" in header and len(rows) == 10


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_pages_are_what_the_methods_say(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert page == PAGES[name](), f"run python -m llava.reduction {name} > docs/{name}.md"


def test_the_badges_are_what_the_code_says():
    badges = load("docs/badges.py")
    drawn = {path.stem: path.read_text(encoding="utf-8") for path in badges.FOLDER.glob("*.svg")}
    wanted = {name: badges.badge(name, fact) for name, fact in badges.facts().items()}
    assert drawn == wanted, "run python docs/badges.py"
    assert all(fact for fact in badges.facts().values())
    goldens = {path.stem for path in (ROOT / "tests/reduction/methods/replays").glob("*.py")} - {"__init__"}
    assert len(goldens) == 20, "the READMEs say how many methods are held to recorded outputs"
    assert badges.facts()["methods"] == "40", "the READMEs say how many methods there are"

"""Every page says what is so: its commands parse or run, its links lead somewhere, and the site can be built of all of them."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from llava.reduction import plan_from, registry
from tests.entries import load, program, subcommand

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / path for path in load("docs/outside.py").linked(ROOT) if path.endswith(".md")),
    ]
)
RUN = ("cost", "hosts", "reproduce")  # those of ``llava`` that take no model, or only list
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
INDENTED = re.compile(r"^    (?:(?:\w+=\S+ )*(?:llava|python|bash|pip|accelerate) .*)(?:\n {5,}\S.*)*$", re.M)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines(page: Path) -> list[list[str]]:
    """The words of every shell command of a page, without comments, assignments and what a heredoc holds."""
    text = page.read_text(encoding="utf-8")
    blocks = [code for language, code in FENCE.findall(text) if language in ("bash", "sh", "shell")]
    blocks += INDENTED.findall(FENCE.sub("", text))
    return [words for block in blocks for words in commands(block)]


def commands(block: str) -> list[list[str]]:
    """The words of each command of a block of shell, variables that it sets filled in."""
    known: dict[str, str] = {}
    block = re.sub(r"<<(\w+)\n.*?^\1$", "", block.replace("\\\n", " "), flags=re.S | re.M)
    found = []
    for line in re.split(r"\n| && ", block):
        words = shlex.split(re.sub(r"\$(\w+)", lambda name: known.get(name[1], name[0]), line), comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0], re.S):
            name, _, value = words.pop(0).partition("=")
            known[name] = value
        if words:
            found.append(words)
    return found


COMMANDS = [pytest.param(words, id=f"{named(page)}: {' '.join(words)[:60]}") for page in PAGES for words in lines(page)]


def extras(words: list[str]) -> set[str]:
    """The extras that a ``pip install`` names."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"\[(.+?)\]", " ".join(words)))))


def check(words: list[str]) -> None:
    """Raises, or ends as argparse does, for a command that cannot be given as it stands."""
    if not {"--plugin", "--match"} & set(words):  # which bring methods of their own, and budgets
        assert all(plan_from(value) is not None for flag, value in pairwise(words) if flag == "--reduction")
    match words:
        case ["python", *rest]:
            parser, arguments = program(rest)
            parser.parse_args(arguments)
        case ["llava", *rest]:
            module, arguments = subcommand(rest)
            module.parser().parse_args(arguments)
        case ["accelerate", "launch", *rest]:
            launched = launch_command_parser().parse_args(rest)
            assert launched.module
            check(["python", "-m", launched.training_script, *launched.training_script_args])
        case ["bash", script, *_]:
            assert (ROOT / script).is_file()
        case ["pip", "install", *rest]:
            setup = (ROOT / "setup.py").read_text(encoding="utf-8")
            assert all(f'"{name}": ' in setup for name in extras(rest))
        case ["lmms-eval", *rest]:
            given = dict(part.split("=", 1) for part in rest[rest.index("--model_args") + 1].split(","))
            assert given["pretrained"] and plan_from(given.get("reduction")) is not None
        case ["mkdocs", "serve" | "build"] | ["curl", *_] | ["export", *_] | ["mkdir", *_]:
            pass
        case ["find", *_]:  # tests/test_shards.py runs it
            pass
        case _:
            raise AssertionError(f"{words[0]} is no command that this test knows")


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_a_page_can_be_given(words, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    if "--plugin" in words:
        monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
        guide = (ROOT / "docs/add_a_method.md").read_text(encoding="utf-8")
        (tmp_path / "my_method.py").write_text(re.findall(r"```python\n(.+?)```", guide, flags=re.S)[0])
        monkeypatch.chdir(tmp_path)
    check(words)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 80 and len(PAGES) > 25


@pytest.mark.parametrize(
    "words", [one for one in COMMANDS if one.values[0][:1] == ["llava"] and one.values[0][1] in RUN]
)
def test_what_needs_no_model_runs(words, monkeypatch):
    if words[1] == "reproduce" and "--list" not in words or "--measure" in words:
        pytest.skip("takes a model, or time")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words)
    module, arguments = subcommand(words[1:])
    monkeypatch.setattr(sys, "argv", [words[1], *arguments])
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        module.main()
    assert len(said.getvalue().splitlines()) > 3


@pytest.mark.parametrize(
    "wrong",
    [
        "llava eval --no-such-flag",
        "llava cots",
        "python -m llava.no_such",
        "make all",
        "llava eval --reduction fastvv@2:64",
    ],
)
def test_a_wrong_command_is_noticed(wrong, capsys):
    with pytest.raises((SystemExit, KeyError, ModuleNotFoundError, AssertionError, ValueError)):
        check(shlex.split(wrong))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", FENCE.sub("", page.read_text(encoding="utf-8")))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_page_of_the_structure_has_every_room():
    page = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    rooms = {named(path.parent) for path in (ROOT / "llava").glob("*/__init__.py")}
    listed = re.findall(r"^\| `([\w/]+)` \|", page, flags=re.M)
    assert rooms <= set(listed) and len(listed) == len(set(listed))
    assert [path for path in listed if not (ROOT / path).is_dir()] == []


def test_the_site_is_built_without_a_warning(tmp_path):
    """``--strict`` ends with an error for a page that no menu has, a link or an anchor that leads nowhere, an unknown name."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert "playground/quickstart/kept.png" in home and (tmp_path / "site/playground/quickstart/kept.png").is_file()
    assert (tmp_path / "site/playground/results/index.html").is_file()
    assert "reduction" in (tmp_path / "site/api/index.html").read_text(encoding="utf-8")

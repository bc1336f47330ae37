"""The command ``llava``: every sub-command is the module that ``python -m`` runs."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from llava.cli.main import COMMANDS, SHAPES, THINGS, llava, main
from llava.model.hosts.table import host_table
from tests.entries import subcommand

EVERY = [(name,) for name in COMMANDS] + [("shapes", name) for name in SHAPES] + [("things", name) for name in THINGS]
LINES = 90  # of train, which has the most flags; the others fit 50


@pytest.mark.parametrize("names", EVERY, ids=" ".join)
def test_every_command_is_a_module_that_runs(names):
    module, left = subcommand([*names, "--flag"])
    assert left == ["--flag"]
    assert "__main__" in Path(str(module.__file__)).read_text(encoding="utf-8")


@pytest.mark.parametrize("names", EVERY, ids=" ".join)
def test_help_fits_a_screen_and_names_the_command(names, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(sys, "argv", ["llava", *names, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().out
    assert not ended.value.code
    assert told.startswith(f"usage: llava {' '.join(names)}")
    assert len(told.splitlines()) <= (LINES if names == ("train",) else 60)


def test_it_runs_the_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["llava", "hosts"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and capsys.readouterr().out == host_table()


def test_a_word_too_many_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["llava", "hosts", "--al"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "--al" in capsys.readouterr().err


def test_arguments_go_to_the_command(monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["llava", "cost", "--host", "llava-1.5-7b", "--image", "640x480", "--reduction", "fastv@2:64"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "fastv@2:64" in capsys.readouterr().out


def test_the_status_of_a_command_is_that_of_the_process(monkeypatch):
    monkeypatch.setattr(runpy, "run_module", lambda *_, **__: sys.exit(2))
    assert CliRunner().invoke(llava, ["eval"]).exit_code == 2


def test_a_room_of_commands_runs_by_itself():
    ended = subprocess.run(
        [sys.executable, "-m", "llava.things"], capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert all(name in ended.stdout + ended.stderr for name in THINGS)


def test_a_wrong_command_is_told_what_is_near():
    ended = CliRunner().invoke(llava, ["cots"])
    assert ended.exit_code == 2 and "cots" in ended.output and "cost" in ended.output


@pytest.mark.parametrize(
    ("words", "typed", "offered"),
    [
        ([], "co", {"convert", "cost"}),
        (["things"], "b", {"build"}),
        (["cost"], "--mat", set()),
        (["cost"], "--red", {"--reduction"}),
        (["methods"], "--", {"--help", "--plugin"}),
    ],
)
def test_the_shell_completes_commands_and_flags(words, typed, offered):
    completed = ShellComplete(llava, {}, "llava", "_LLAVA_COMPLETE").get_completions(words, typed)
    assert {item.value for item in completed} == offered

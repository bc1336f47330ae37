"""The command ``llava``: every sub-command is the module that ``python -m`` runs."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from llava.cli.main import COMMANDS, main
from llava.model.hosts.table import host_table


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_module_that_runs(command):
    module = COMMANDS[command][0]
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(f"{module}.__main__") is not None


def test_it_runs_the_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["llava", "hosts"])
    main()
    assert capsys.readouterr().out == host_table()


def test_arguments_go_to_the_command(monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["llava", "cost", "--host", "llava-1.5-7b", "--image", "640x480", "--reduction", "fastv@2:64"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "fastv@2:64" in capsys.readouterr().out


def test_a_wrong_command_is_told_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["llava", "cots"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "'cost'" in capsys.readouterr().err

"""``llava methods``: all by group, or one with its options."""

from __future__ import annotations

import pytest

from llava.cli.methods import main
from llava.reduction import list_methods
from llava.reduction.registry import method_names


def test_every_method_is_listed_under_its_group(capsys):
    assert main([]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    told = [line[1].strip() for line in lines if len(line) > 1 and line[0] == "" and not line[1].startswith(" ")]
    assert {name for name in told if name} == set(method_names())
    assert [line[0].strip() for line in lines if line[0]] == list(list_methods())


def test_one_is_described_with_its_options(capsys):
    assert main(["fastv"]) == 0
    told = capsys.readouterr().out
    assert "arxiv.org/abs/2403.06764" in told and "heads='avg_all_heads'" in told


def test_one_without_options_says_so(capsys):
    assert main(["full"]) == 0
    assert "It has no options." in capsys.readouterr().out


def test_a_method_of_a_plugin(tmp_path, capsys):
    lines = (
        "Paper: none   Site: prompt   Needs: nothing   Training: none\nCost: none.\nDiffers from the authors' code: no."
    )
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from llava.reduction import Reducer, register\n"
        f'@register("mine_of_this_test")\nclass Mine(Reducer):\n    """Keep what I like.\n\n{lines}\n"""\n'
    )
    assert main(["--plugin", str(plugin), "mine_of_this_test"]) == 0
    assert "Keep what I like." in capsys.readouterr().out
    from llava.reduction import registry

    del registry._METHODS["mine_of_this_test"]


@pytest.mark.parametrize("arguments", [["fastw"], ["--plugin", "no_such_module"]])
def test_what_is_not_there_is_bad_input(arguments, caplog):
    assert main(arguments) == 2
    assert arguments[-1] in caplog.text

"""The guide's methods are what it says they are: its page is code that runs, on the contract's properties."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from llava.reduction import get_method, reduced, registry
from tests.tiny import MIXED, prompt, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "add_a_method.md"
NAMES = {"loudest": "@2:7", "asked_for": "@2:7", "above_the_mean": "@2", "gathered": "@2:7"}


@pytest.fixture(autouse=True)
def of_the_page(monkeypatch, tmp_path):
    """The methods of the page, loaded as a plug-in is, for one test."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    blocks = re.findall(r"```python\n(.+?)```", PAGE.read_text(), flags=re.S)
    assert len(blocks) == len(NAMES)
    for number, block in enumerate(blocks):
        file = tmp_path / f"method_{number}.py"
        file.write_text(block)
        registry.load_plugin(str(file))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_method_like_any_other(name):
    model, batch, plan = tiny_model(), prompt(*MIXED), f"{name}{NAMES[name]}"
    outcomes = {}
    for place in ("drop", "mask"):
        written = plan + (",place=" if ":" in plan else ":place=") + place
        with torch.no_grad(), reduced(model, written):
            outcomes[place] = model(**batch.inputs).logits[:, -1], model.model.last_trace[0]
    torch.testing.assert_close(outcomes["drop"][0], outcomes["mask"][0], rtol=0, atol=2e-5)
    together, record = outcomes["drop"]
    assert record.after[:3].lt(record.before[:3]).all()
    for row in range(3):
        with torch.no_grad(), reduced(model, plan):
            alone = model(**batch.row(row).inputs).logits[:, -1]
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=2e-5)


def test_what_each_keeps():
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 0.1], [0.0, 2.0], [2.9, 0.0]]])
    kept = get_method("loudest")().select(tokens, None, 2)
    assert kept.tolist() == [[1, 3]]
    assert get_method("above_the_mean")().select(tokens, None, None).tolist() == [[False, True, False, True]]
    gathered = get_method("gathered")().aggregate(tokens, torch.tensor([[1, 2]]), None)
    assert torch.allclose(gathered, torch.tensor([[[2.3, 1 / 30], [0.0, 2.0]]]))


def test_they_stand_on_the_page_of_methods():
    assert "other packages" in registry.list_methods()
    assert "| `asked_for` | Keep the tokens that are most like the words of the question |" in registry.method_page()


def test_a_plugin_that_is_none_says_why(tmp_path):
    with pytest.raises(ValueError, match="plugin 'no_such_module_anywhere' cannot be imported: No module named"):
        registry.load_plugin("no_such_module_anywhere")
    with pytest.raises(ValueError, match="cannot be imported: .*No such file"):
        registry.load_plugin(str(tmp_path / "missing.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("def (")
    with pytest.raises(ValueError, match="cannot be imported: invalid syntax|cannot be imported"):
        registry.load_plugin(str(broken))


def test_the_flag_loads_before_the_plan_is_read(tmp_path, capsys):
    from tests.entries import entry

    file = tmp_path / "quiet_method.py"
    file.write_text(re.findall(r"```python\n(.+?)```", PAGE.read_text(), flags=re.S)[0].replace("loudest", "quiet"))
    parser = entry("llava.eval.run").parser()
    words = ["--task", "mme", "--model-path", "x", "--data", "y"]
    assert parser.parse_args([*words, "--plugin", str(file), "--reduction", "quiet@2:7"]).plugin == [str(file)]
    assert "quiet" in registry.method_names()
    with pytest.raises(SystemExit):
        parser.parse_args([*words, "--plugin", "nothing_here"])
    assert "cannot be imported" in capsys.readouterr().err

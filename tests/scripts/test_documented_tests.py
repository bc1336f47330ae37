"""The documents run two test files as scripts; as such they run their tests."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENTED = ("model/language_model/test_token_condensation.py", "test_token_merge_position.py")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_as_a_script_it_runs_its_tests(name, monkeypatch):
    started = []
    monkeypatch.setattr(pytest, "main", lambda words: started.append(words) or 5)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TESTS / name), run_name="__main__")
    assert started == [[str(TESTS / name)]] and ended.value.code == 5


@pytest.mark.parametrize("name", DOCUMENTED)
def test_imported_it_runs_nothing(name):
    last = ast.parse((TESTS / name).read_text()).body[-1]
    assert isinstance(last, ast.If) and "__main__" in ast.unparse(last.test)

"""The registry: what it refuses, and that other packages' methods are found."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint

import pytest

from llava.reduction import Reducer, get_method, make_stage, method_names, register, registry


def test_registering_refuses_duplicates_names_and_bare_docstrings():
    documented = get_method("full").__doc__
    for name, doc, said in (
        ("full", documented, "twice"),
        ("Full", documented, "lower case"),
        ("new", "Bare.", "lacks"),
    ):
        with pytest.raises(ValueError, match=said):
            register(name)(type("Method", (Reducer,), {"__doc__": doc}))


@pytest.fixture
def entry_points(monkeypatch):
    """Give the registry these entry points, and forget afterwards what they registered."""

    def give(*points: EntryPoint) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "llava.methods" else ())
        registry._load_entry_points.cache_clear()

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    yield give
    registry._load_entry_points.cache_clear()


def test_methods_of_another_package_are_found(entry_points, tmp_path, monkeypatch):
    documented = get_method("full").__doc__
    (tmp_path / "elsewhere.py").write_text(
        "from llava.reduction import Reducer, register\n\n"
        "class Mine(Reducer):\n    pass\n\n"
        f"Mine.__doc__ = {documented!r}\nregister('of_another_package')(Mine)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    entry_points(EntryPoint("elsewhere", "elsewhere", "llava.methods"))
    assert "of_another_package" in method_names()
    assert str(make_stage("of_another_package", keep=3)) == "of_another_package:3"


def test_a_package_that_cannot_be_imported_is_named_and_left_out(entry_points, caplog):
    entry_points(EntryPoint("broken", "no_such_module", "llava.methods"))
    with caplog.at_level(logging.WARNING):
        assert "fastv" in method_names()
    assert "the methods of broken (no_such_module) are left out: No module named 'no_such_module'" in caplog.text


@pytest.mark.parametrize("name", [None, 5, ["fastv"], True])
def test_a_method_is_named_by_a_word(name):
    with pytest.raises(ValueError, match="must be a name; choose one of"):
        get_method(name)

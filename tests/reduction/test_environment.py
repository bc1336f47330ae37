"""LLAVA_REDUCTION: the plan of programs that pass none on, said in plain sight, never in place of one that is passed."""

from __future__ import annotations

import pytest

from llava.reduction import environment
from llava.reduction.environment import environment_plan, with_environment


@pytest.fixture(autouse=True)
def unsaid():
    environment._warn_once.cache_clear()


@pytest.mark.parametrize("knobs", [{}, {"reduction": None}, {"use_custom_selection": False}])
def test_it_stands_in_where_nothing_is_asked_for(knobs, monkeypatch):
    assert with_environment(knobs) == knobs
    monkeypatch.setenv("LLAVA_REDUCTION", "fastv@2:9")
    assert with_environment(knobs) == {**knobs, "reduction": "fastv@2:9"}


@pytest.mark.parametrize("knobs", [{"reduction": ""}, {"reduction": "divprune:4"}, {"use_fast_v": True}, {"x": 0.5}])
def test_what_is_passed_wins(knobs, monkeypatch, caplog):
    monkeypatch.setenv("LLAVA_REDUCTION", "no plan at all")
    assert with_environment(knobs) == knobs and not caplog.records


def test_it_is_said_once_for_every_plan(monkeypatch, caplog):
    monkeypatch.setenv("LLAVA_REDUCTION", "")
    assert environment_plan() is None and not caplog.records
    for plan in ("fastv@2:9", "fastv@2:9", "divprune:4"):
        monkeypatch.setenv("LLAVA_REDUCTION", plan)
        assert environment_plan() == plan
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(": ")[0] for text in said] == [
        "LLAVA_REDUCTION=fastv@2:9",
        "LLAVA_REDUCTION=divprune:4",
    ]


@pytest.mark.parametrize(
    ("plan", "kind", "message"),
    [
        ("fastw@2:9", ValueError, "LLAVA_REDUCTION: .*did you mean 'fastv'.*unset"),
        ("nowhere.yaml", FileNotFoundError, "LLAVA_REDUCTION: no plan file 'nowhere.yaml'"),
    ],
)
def test_what_is_no_plan_names_the_variable(plan, kind, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAVA_REDUCTION", plan)
    with pytest.raises(kind, match=message):
        environment_plan()

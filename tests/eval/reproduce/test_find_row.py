"""Which published row a command means, and which plan runs it."""

from __future__ import annotations

import pytest

from llava.eval.reproduce.published import read_publications
from llava.eval.reproduce.rows import find_row, matching_rows, plan_of

ALL = read_publications()


def test_a_row_of_known_accounting_comes_first():
    printed = find_row(ALL, "fastv", 128, "mme")
    assert printed.name == "cdpruner: fastv at 128" and plan_of(printed) == "fastv@2:98"
    assert find_row(ALL, "fastv", 128, "mme", "vispruner").row.scores["mme"] == 1208.9


def test_without_a_plan_it_is_the_methods_own_budget():
    assert plan_of(find_row(ALL, "visionzip", 64, "gqa")) == "visionzip:64"


def test_a_plan_that_nobody_knows_is_asked_for():
    with pytest.raises(ValueError, match="vispruner: fastv at 128: the source does not say .* --reduction"):
        plan_of(find_row(ALL, "fastv", 128, "mme", "vispruner"))


def test_a_trained_row_is_listed_and_not_run():
    assert any(each.row.trained for each in matching_rows(ALL, "visionzip", 192))
    assert not find_row(ALL, "visionzip", 192, "gqa").row.trained
    with pytest.raises(ValueError, match="no published row of twigvlm at 192 on gqa"):
        find_row(ALL, "twigvlm", 192, "gqa")


@pytest.mark.parametrize(
    ("method", "label", "task", "source", "message"),
    [
        (
            "fastv",
            100,
            "mme",
            None,
            "no published row of fastv at 100 on mme; there is cdpruner: fastv at 128 on vqav2",
        ),
        ("fastw", 128, "mme", None, "--method fastw has no published row; did you mean 'fastv'"),
        ("dart", 64, "mme", None, "dart at 128 on vqav2, gqa, scienceqa, textvqa, pope, mme"),
        ("fastv", 128, "mme", "cdprune", "--source cdprune is unknown; did you mean 'cdpruner'"),
        ("fastv", 128, "mme", "twigvlm", "no published row of fastv at 128 on mme"),
        ("tome", 128, "mme", None, "vispruner: tome at 128 on no single benchmark"),
    ],
)
def test_what_is_not_printed_is_said_with_what_is(method, label, task, source, message):
    with pytest.raises(ValueError) as caught:
        find_row(ALL, method, label, task, source)
    assert message in str(caught.value)


def test_a_row_that_two_sources_print_is_chosen_by_source():
    doubled = [*ALL, *(each for each in ALL if each.name == "cdpruner")]
    with pytest.raises(ValueError, match="printed more than once; choose with --source cdpruner"):
        find_row(doubled, "dart", 128, "gqa")

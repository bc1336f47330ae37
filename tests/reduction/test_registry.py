"""Every spelling of a plan, and what is said about a wrong one."""

from __future__ import annotations

import pytest

from llava.reduction import Place, Reducer, get_method, make_stage, plan_from, plan_name, register


@pytest.mark.parametrize(
    "text",
    [
        "fastv@2:64",
        "fastv@2:0.25",
        "fastv@2:1.0",
        "fastv@3:64,heads=max_head",
        "fastv@3:64,heads=weighted_combination,alpha=0.7,place=mask",
        "random:64,seed=3",
        "random@2:64,positions=compact",
        "pool:64+fastv@2:16",
        "grid@prompt:36",
        "full",
        "blind",
        "blind@4",
    ],
)
def test_the_short_spelling_reads_back(text):
    assert "+".join(map(str, plan_from(text))) == text


def test_spellings_agree(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("reduction: [{method: fastv, layer: 2, keep: 64, place: mask, heads: max_head}]")
    spellings = [
        "fastv@2:64,place=mask,heads=max_head",
        [{"method": "fastv", "layer": 2, "keep": 64, "place": "mask", "heads": "max_head"}],
        {"method": "fastv", "keep": 64, "place": Place.MASK, "heads": "max_head"},
        file,
        str(file),
        [make_stage("fastv", layer=2, keep=64, place="mask", heads="max_head")],
    ]
    assert {str(plan_from(spelling)[0]) for spelling in spellings} == {"fastv@2:64,heads=max_head,place=mask"}
    assert plan_from("fastv:25%")[0].keep == 0.25
    assert plan_from(None) == plan_from("") == plan_from([]) == []
    assert plan_name("") == "full" and plan_name("pool:64+fastv@2:16") == "pool-64+fastv@2-16"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fasv@2:64", "did you mean 'fastv'"),
        ("fastv@0:64", "layer=0"),
        ("fastv@2", "keep=None"),
        ("fastv@2:-3", "keep=-3"),
        ("fastv@2:1.5", "above 1"),
        ("fastv@2:many", "how many to keep"),
        ("fastv@2:64,hed=max_head", "did you mean 'heads'"),
        ("fastv@2:64,heads=best", "heads='best'"),
        ("fastv@2:64,heads=weighted_combination,alpha=2", "alpha=2"),
        ("fastv@2:64,place=gone", "place='gone'"),
        ("fastv@2:64,positions=new", "positions='new'"),
        ("fastv@features:64", "cannot stand"),
        ("grid@3:64", "cannot stand"),
        ("random:64,place=mask", "keeps the length"),
        ("random@2:64,place=mask,positions=compact", "keeps the length"),
        ("fastv@4:9+fastv@2:9", "out of order"),
        ("fastv@2:9+pool:16", "out of order"),
        ("fastv@2:9+random@2:4", "out of order"),
        ("random:64,seed=-1", "seed=-1"),
        ("random:64,7", "name=value"),
        ([{"layer": 2}], "key 'method'"),
        ([{"method": "full", "layer": True}], "layer=True"),
        ({"method": "random", "site": "features", "layer": 2, "keep": 3}, "no meaning"),
        ({"method": "random", "keep": True}, "keep=True"),
    ],
)
def test_wrong_plans_say_what_is_wrong(spec, said):
    with pytest.raises(ValueError, match=said):
        plan_from(spec)


def test_plan_files_that_are_missing_or_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        plan_from("nowhere.yaml")
    file = tmp_path / "plan.yaml"
    for content, said in (("a: [", "not YAML"), ("plan: []", "one key")):
        file.write_text(content)
        with pytest.raises(ValueError, match=said):
            plan_from(file)


def test_registering_refuses_duplicates_names_and_bare_docstrings():
    documented = get_method("full").__doc__
    for name, doc, said in (
        ("full", documented, "twice"),
        ("Full", documented, "lower case"),
        ("new", "Bare.", "lacks"),
    ):
        with pytest.raises(ValueError, match=said):
            register(name)(type("Method", (Reducer,), {"__doc__": doc}))


@pytest.mark.parametrize(
    "option",
    ["fastv@2:3,alpha=half", "fastv@2:3,diversity=much", "condensation@2:3,cover=all", "condensation@2:3,semantic=yes"],
)
def test_a_word_where_a_number_belongs_names_the_option(option):
    with pytest.raises(ValueError, match=option.split(",")[1].replace("=", "='")):
        plan_from(option)

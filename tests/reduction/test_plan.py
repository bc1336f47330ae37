"""Every spelling of a plan, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.reduction import Place, make_stage, plan_from, plan_name
from llava.reduction.aggregate import CrossAttention
from llava.reduction.learned.trained import save_trained
from llava.reduction.methods.anywhere.condensation import Condensation
from llava.reduction.plan import tokens_left
from llava.reduction.stage import Stage


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
        "fastv@2:0.9999999",
        "fastv@2:0.12345678901234568",
        "fastv@2:1e-05",
        "custom_selection@2:8,temperature=1e308",
        "pool:64,per=crop",
        "himap@3:8,rows=image,row_normalised=true",
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
        ("fastv@2:64,method=random", "method is given twice"),
        ("fastv@2:64,keep=32", "keep is given twice"),
        ("fastv@2:64,layer=5", "layer is given twice"),
        ("fastv@2:64,site=prompt", "site is given twice"),
        ("fastv@2:64,heads=max_head,heads=adaptive", "heads is given twice"),
        ("himap@3:8,rows=image,row_normalised=no", "row_normalised='no' must be true or false"),
        ("blind:64", "keep=64 of blind: blind takes no budget"),
        ("full@2:0.5", "full takes no budget"),
        ("full:1e9", "full takes no budget"),
        ("full:keep=text", "how many to keep"),
        ("blind@2:nan", "how many to keep"),
        ("condensation@2:64,attention=foo", "attention='foo' must be a CrossAttention"),
        ("merger:64,module=x", "module='x' must be a Merger"),
        ("custom_selection@2:64,weights=5", "weights=5 must be the path of a folder"),
        ("fastv@2:\uff16\uff14", "how many to keep"),
        ("fastv@\uff12:64", "site="),
        ("fastv@2:6_4", "how many to keep"),
        ("fastv@2:64,,", "name=value"),
        ("fastv@2:64,heads=", "heads has no value"),
        ("fastv@2:1.2.3%", r"cannot read '1.2.3%' in the plan 'fastv@2:1.2.3%'"),
        ("random@2:64,seed=" + "9" * 30, "is too large"),
        ({"method": "random", "keep": 64, "seed": 10**30}, "seed=1000.* must be a whole number"),
        ("custom_selection@2:8,temperature=1e999", "is too large"),
        ("custom_selection@2:8,temperature=1e-300", "temperature=1e-300"),
        ('merger:8,weights="a', "quotes .* do not end"),
        ("blind:args=3", "option 'args' of blind is unknown"),
        ("grid:64,kwargs=x", "option 'kwargs' of grid is unknown"),
        (5, "cannot read 5 as a plan"),
        (True, "cannot read True as a plan"),
        (b"full", "must be written like"),
        ([None], "must be written like"),
        ([["fastv@2:3"]], "must be written like"),
        ({"method": None}, "method=None must be a name"),
        ({"method": ["fastv"]}, "must be a name"),
        ({"method": "full", 1: 2}, "1 in the stage .* is no option"),
        ({"method": "condensation", "keep": 3, "strategy": ["fps"]}, "strategy=\\['fps'\\] is unknown"),
        ({"method": "fastv", "keep": float("inf")}, "keep=inf"),
        ("pool:8,per=image+fastv@2:9", "exceeds the 8 tokens that pool:8 leaves"),
        ("random@2:8,per=crop", "per='crop' of random only has a meaning"),
        ("downsample:9,per=image", "at site='pixels' a budget is for each crop"),
        ("pool:8,per=row", "per='row' is unknown"),
        ([{"layer": 2}], "key 'method'"),
        ([{"method": "full", "layer": True}], "layer=True"),
        ({"method": "random", "site": "features", "layer": 2, "keep": 3}, "no meaning"),
        ({"method": "random", "keep": True}, "keep=True"),
    ],
)
def test_wrong_plans_say_what_is_wrong(spec, said):
    with pytest.raises(ValueError, match=said):
        plan_from(spec)


def test_a_list_may_mix_strings_mappings_and_stages():
    mixed = ["pool:64", {"method": "fastv", "layer": 2, "keep": 16}, make_stage("blind", layer=4)]
    assert plan_from(mixed) == plan_from("pool:64+fastv@2:16+blind@4") == plan_from(["pool:64+fastv@2:16", "blind@4"])


def test_stages_are_equal_by_value():
    assert plan_from("fastv@2:64") == plan_from("fastv@2:64,heads=avg_all_heads")
    assert len({*plan_from("fastv@2:64"), *plan_from("fastv@2:64")}) == 1
    assert plan_from("fastv@2:1") != plan_from("fastv@2:1.0") and plan_from("random:9") != plan_from("stride:9")
    first, second = (Stage(Condensation(attention=CrossAttention(8, 2), heads=2), "features", keep=3) for _ in range(2))
    assert first == first and first != second  # two modules are two methods


@pytest.mark.parametrize("folder", ["a+b", "a,b", 'a"b', "a b", "64", "true", "x=y", "a/merger", "\u00e4+\n"])
def test_a_path_of_any_characters_reads_back(folder, tmp_path):
    save_trained(CrossAttention(8, 2), tmp_path / folder, {"width": 8, "heads": 2})
    plan = plan_from({"method": "condensation", "keep": 3, "weights": str(tmp_path / folder)})
    assert plan_from(str(plan[0])) == plan
    joined = f"{plan[0]}+fastv@3:3"
    assert plan_from(joined) == [*plan, *plan_from("fastv@3:3")]


def test_a_path_cut_at_its_plus_says_how_to_write_it(tmp_path):
    save_trained(CrossAttention(8, 2), tmp_path / "a", {"width": 8, "heads": 2})
    with pytest.raises(ValueError, match='a path with a \\+ is written in quotes: weights="a\\+b"'):
        plan_from(f"condensation:3,weights={tmp_path / 'a'}+b")


def test_names_of_plans_do_not_collide(tmp_path):
    for folder in ("a/merger", "b/merger", "c,d", "c+d"):
        save_trained(CrossAttention(8, 2), tmp_path / folder, {"width": 8, "heads": 2})
    specs = [
        {"method": "condensation", "keep": 3, "weights": str(tmp_path / folder)}
        for folder in ("a/merger", "b/merger", "c,d", "c+d")
    ]
    names = [plan_name(spec) for spec in specs]
    assert len(set(names)) == 4 and all("/" not in name and len(name) < 200 for name in names)
    assert names[0].startswith("condensation@2-3_weights=merger-")
    assert plan_name("fastv@2:64,heads=max_head+blind@4") == "fastv@2-64_heads=max_head+blind@4"


def test_a_budget_at_the_features_is_the_pictures_or_by_option_each_crops():
    """Five crops of 36 tokens: 64 of the picture, or of each crop as far as it has any."""
    assert tokens_left(plan_from("random@features:64"), 180, 3, crops=5) == [64] * 3
    assert tokens_left(plan_from("random@features:30,per=crop"), 180, 3, crops=5) == [150] * 3
    assert tokens_left(plan_from("downsample:10"), 180, 3, crops=5) == [45] * 3  # 3 x 3 of each
    assert tokens_left(plan_from("random@features:30,per=crop+fastv@1:100"), 180, 3, crops=5) == [150, 100, 100]
    assert tokens_left(plan_from("blind@1"), 180, 2) == [180, 0]


def test_messages_do_not_grow_with_the_plan():
    for spec in (
        "x" * 700_000,
        "fastv@2:" + "9" * 19_000,
        ["fastv@2:3"] * 3 + [list("y" * 10_000)],
        "n" * 300 + ".yaml",
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            plan_from(spec)
        assert len(str(caught.value)) < 1000


YAML_FAULTS = {
    "a: [": "not YAML",
    "plan: []": "must hold the key 'reduction'",
    "reduction: 5": "cannot read 5 as a plan",
    "reduction: self.yaml": "a plan file cannot name another",
    "reduction: [self.yaml]": "is unknown",
    "reduction: [{method: fastv, keep: 64, keep: 3}]": "the key 'keep' is given twice",
    "reduction: &a [{method: fastv, keep: *a}]": "aliases are not allowed",
    "reduction: !!python/name:os.system": "the tag .* is not allowed",
    "reduction: " + "[" * 3000: "deeper than",
    "- " * 3000: "deeper than",
    "reduction: [{method: fastv, keep: 1:04}]": "keep='1:04'",
    "reduction: [{method: himap, keep: 3, rows: image, row_normalised: no}]": "row_normalised='no'",
    "reduction: [{1: 2}]": "the key 1 is no word",
    "reduction: [{method: fastv, keep: " + "9" * 30 + "}]": "keep='999",
    "x" * 40_000: "has at most 32768",
    b"reduction: \xff\xfe": "is not text in UTF-8",
}


@pytest.mark.parametrize("content", YAML_FAULTS, ids=lambda content: str(YAML_FAULTS[content])[:30])
def test_plan_files_that_are_wrong_are_named(content, tmp_path):
    file = tmp_path / "self.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=YAML_FAULTS[content]) as caught:
        plan_from(file)
    assert len(str(caught.value)) < 1000


def test_plan_files_read_numbers_as_they_look(tmp_path):
    file = tmp_path / "plan.yml"
    file.write_text("\ufeffreduction:\n  - {method: fastv, layer: 2, keep: 0100}\n  - blind@4\n", encoding="utf-8")
    assert plan_from(file) == plan_from("fastv@2:100+blind@4")
    file.write_text("reduction: fastv@2:64")
    assert plan_from(str(file)) == plan_from("fastv@2:64")
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        plan_from("nowhere.yaml")
    with pytest.raises(FileNotFoundError, match="no plan file"):
        plan_from(Path("n" * 300 + ".yaml"))


@pytest.mark.parametrize(
    "option",
    ["fastv@2:3,alpha=half", "fastv@2:3,diversity=much", "condensation@2:3,cover=all", "condensation@2:3,semantic=yes"],
)
def test_a_word_where_a_number_belongs_names_the_option(option):
    with pytest.raises(ValueError, match=option.split(",")[1].replace("=", "='")):
        plan_from(option)

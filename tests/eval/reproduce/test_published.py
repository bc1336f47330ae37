"""Published rows: those of the repository hold together, and what the schema does not allow is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.eval.reproduce.published import FOLDER, read_publication, read_publications
from llava.reduction import list_methods, plan_from
from llava.reduction.plan import tokens_left

GOOD = """
source: A paper
model: liuhaotian/llava-v1.5-7b
metrics: {gqa: accuracy, mme: perception}
base: {scores: {gqa: 61.9}}
rows:
  - {method: fastv, label: 128, accounting: mean, plan: "fastv@2:98", scores: {gqa: 54, mme: 1368.9}, relative: 92.8}
"""
ROWS = [
    (publication.name, row)
    for publication in read_publications()
    for row in publication.rows
    if publication.model == "liuhaotian/llava-v1.5-7b"
]


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "paper.yaml").write_text(GOOD)
    return tmp_path / "paper.yaml"


def test_a_file_as_it_is_read(file):
    publication = read_publication(file)
    assert (publication.name, publication.url, publication.tokens) == ("paper", None, None)
    assert publication.base == {"gqa": 61.9} and publication.metrics["mme"] == "perception"
    (row,) = publication.rows
    assert (row.method, row.label, row.accounting, row.plan) == ("fastv", 128, "mean", "fastv@2:98")
    assert row.scores == {"gqa": 54.0, "mme": 1368.9} and row.relative == 92.8 and not row.trained


def test_the_repository_has_the_published_tables():
    by_name = {publication.name: publication for publication in read_publications()}
    assert {"cdpruner", "vispruner", "fastervlm", "twigvlm"} <= set(by_name) and len(ROWS) > 70
    table = {(row.method, row.label): row for row in by_name["cdpruner"].rows}
    assert table["cdpruner", 128].relative == 99.0 and table["fastv", 64].scores["pope"] == 35.5
    assert by_name["cdpruner"].base["mme"] == 1506.5 and by_name["cdpruner_qwen2_5_vl"].base["chartqa"] == 86.1


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}-{row.method}-{row.label:g}" for name, row in ROWS])
def test_a_plan_has_the_mean_tokens_that_its_row_says(name, row):
    """LLaVA-1.5-7B: 576 visual tokens, 32 layers. A row without a plan, of a method that is not there, says less."""
    if row.plan is not None:
        left = tokens_left(plan_from(row.plan), 576, 32)
        assert row.mean_tokens == pytest.approx(sum(left) / 32, abs=0.1)
    if row.accounting == "entering" and row.mean_tokens is not None:
        assert row.mean_tokens == row.label
    if row.scores and row.relative is not None:
        assert 40 < row.relative < 110


def test_most_published_relative_figures_follow_from_the_scores():
    """Means of ratios over the benchmarks listed here are within four points of the printed ones, which are over more."""
    publication = next(each for each in read_publications() if each.name == "cdpruner")
    for row in publication.rows:
        if len(row.scores) >= 6:
            ratios = [100 * score / publication.base[benchmark] for benchmark, score in row.scores.items()]
            assert sum(ratios) / len(ratios) == pytest.approx(row.relative, abs=4), (row.method, row.label)


def test_methods_that_are_implemented_are_spelt_alike():
    """A published name that differs from a method's by its signs alone would never be found."""
    plain = {name.replace("_", "").replace("-", ""): name for name in list_methods()}
    for _, row in ROWS:
        same = plain.get(row.method.replace("_", "").replace("-", ""))
        assert same in (None, row.method)


FAULTS = {
    ("source: A paper\n", ""): "paper.yaml lacks source",
    ("rows:", "row:"): "the key 'row' is unknown; did you mean 'rows'",
    ("label: 128", "label: many"): "row 1: label='many' must be a number",
    ("label: 128", "label: true"): "row 1: label=True must be a number",
    ("label: 128", "label: -1"): "row 1: label=-1 must not be below 0",
    ("label: 128, ", ""): "row 1 lacks label",
    ("accounting: mean", "accounting: average"): "accounting='average' must be one of entering, mean, after, unknown",
    ("relative: 92.8", "relativ: 92.8"): "the key 'relativ' is unknown; did you mean 'relative'",
    ("{gqa: 54, mme: 1368.9}", "{gqa: 54, pope: 80}"): "scores has 'pope', and metrics does not say",
    ("{gqa: 54, mme: 1368.9}", "{gqa: high}"): "gqa='high' must be a number",
    ("mme: perception", "mme: accuracy"): "mme='accuracy' must be one of perception, cognition",
    ("mme: perception", "mne: perception"): "'mne' is no benchmark; did you mean 'mme'",
    ("{scores: {gqa: 61.9}}", "{gqa: 61.9}"): "base: the key 'gqa' is unknown",
    ("{scores: {gqa: 61.9}}", "61.9"): "base=61.9 must be a mapping",
    (", scores: {gqa: 54, mme: 1368.9}, relative: 92.8", ""): "row 1 holds no accuracy",
    ("gqa: 54,", "gqa: 54, gqa: 55,"): "the key 'gqa' is given twice",
    ("- {method", "- fastv\n  - {method"): "row 1 is 'fastv' where a mapping belongs",
}


@pytest.mark.parametrize("change", FAULTS, ids=lambda change: FAULTS[change][:40])
def test_what_the_schema_does_not_allow_is_named(file, change):
    before, after = change
    assert before in GOOD
    file.write_text(GOOD.replace(before, after))
    with pytest.raises(ValueError) as caught:
        read_publication(file)
    assert FAULTS[change] in str(caught.value) and "paper.yaml" in str(caught.value)


def test_a_row_that_stands_twice_and_a_table_without_rows(file):
    file.write_text(GOOD + GOOD.strip().splitlines()[-1] + "\n")
    with pytest.raises(ValueError, match="row 2: fastv at 128 is there already"):
        read_publication(file)
    file.write_text(GOOD.partition("rows:")[0] + "rows: []\n")
    with pytest.raises(ValueError, match="rows is empty"):
        read_publication(file)


def test_a_folder_without_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no published rows"):
        read_publications(tmp_path)


def test_the_example_of_the_schema_is_read(tmp_path):
    text = (FOLDER / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "example.yaml").write_text(text)
    assert read_publication(tmp_path / "example.yaml").rows[0].mean_tokens == 127.9

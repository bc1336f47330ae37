"""What a table shows: columns that hold something, comparisons in words, and notes that say what must be known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llava.eval.report.notes import notes
from llava.eval.report.runs import collect
from llava.eval.report.table import columns
from tests.eval.folders import make_run, questions

KEYS = questions(pictures=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_run(root, "full", keys=KEYS)
    make_run(root, "fastv@2:64", KEYS[:3], keys=KEYS)
    make_run(root, "fastv@2:16", KEYS[:16], tokens=16, keys=KEYS)
    for seed in (0, 1):
        make_run(root, f"random@2:64,seed={seed}" if seed else "random@2:64", KEYS[:8], keys=KEYS)
    return root


def texts(rows) -> dict[str, list[str]]:
    return {column.head: list(map(str, column.cells)) for column in columns(rows)}


def test_columns_and_cells(made):
    rows, _ = collect([made])
    found = texts(rows)
    assert list(found) == [
        "plan", "score / 600 [95 %]", "accuracy % [95 %]", "visual tokens", "GFLOPs", "KV MB", "ms", "tower ms",
        "vs full", "vs random", "equivalent to full",
    ]  # fmt: skip
    assert found["plan"] == ["full", "fastv@2-64", "random@2-64 (2 seeds)", "fastv@2-16"]
    assert found["visual tokens"] == ["576.0", "320.0", "320.0", "296.0"]
    assert found["score / 600 [95 %]"][2].startswith("400.0 ± 0 [")
    assert found["vs full"][0] == "" and found["vs random"][2] == ""
    assert found["vs full"][3].startswith("-400 [") and " worse (p < 0.001)" in found["vs full"][3]


def test_brief_cells_have_one_word_for_a_verdict(made):
    rows, _ = collect([made])
    briefs = next([cell.brief for cell in column.cells] for column in columns(rows) if column.head == "vs full")
    assert briefs[:2] == ["", "-88 indistinct"]
    assert briefs[3] == "-400 worse"


def test_prefill_and_decode_are_columns_where_some_run_has_them(made, tmp_path):
    make_run(tmp_path, "pool:16", keys=KEYS, timed=True)
    found = texts(collect([made, tmp_path])[0])
    assert sorted(found["prefill ms"]) == ["-", "-", "-", "-", "30.0"] and "10.0" in found["decode ms"]


def test_the_template_is_in_every_table_and_a_column_where_it_differs(made):
    rows, _ = collect([made])
    assert "template" not in texts(rows) and notes(rows)[0] == "Prompt template: vicuna_v1."
    mixed = [rows[0], replace(rows[1], template="llava_v1"), replace(rows[2], template=None)]
    assert texts(mixed)["template"] == ["vicuna_v1", "llava_v1", "-"]
    assert notes(mixed)[0] == "Prompt template: vicuna_v1 and llava_v1 and not recorded."


def test_visual_tokens_that_differ_have_their_range(made):
    row = replace(collect([made])[0][1], visual_tokens=46.25, visual_tokens_range=[12.0, 80.4])
    assert texts([row])["visual tokens"] == ["46.2 (12 to 80)"]


def test_task_model_and_folder_are_columns_where_they_differ(made, tmp_path):
    make_run(tmp_path, "full", keys=KEYS)
    assert "folder" in texts(collect([made, tmp_path])[0])
    make_run(tmp_path / "deep", "full", keys=KEYS, name="other")
    found = texts(collect([made, tmp_path / "deep"])[0])
    assert "folder" not in found and set(found["model"]) == {"llava-shapes-v1", "other"}


def test_scores_of_different_limits_carry_their_limit(made):
    rows, _ = collect([made])
    found = texts([rows[0], replace(rows[1], max_score=100.0, score=61.25, score_interval=[59.0, 63.0])])
    assert found["score [95 %]"][0].startswith("600.0 / 600 [")
    assert found["score [95 %]"][1] == "61.2 / 100 [59.0, 63.0]"


def test_digits_follow_the_size_of_a_score(made):
    row = collect([made])[0][0]
    million = replace(row, score=1306.04, max_score=1600.0, score_interval=[1244.4, 1370.0])
    assert texts([million])["score / 1600 [95 %]"] == ["1306.0 [1244, 1370]"]
    one = replace(row, score=0.87654, max_score=1.0, score_interval=[0.8, 0.9])
    assert texts([one])["score / 1 [95 %]"] == ["0.877 [0.800, 0.900]"]


def test_an_accuracy_comparison_says_per_cent(made):
    row = collect([made])[0][1]
    plain = replace(row.vs_full, score=None, score_interval=None)
    assert texts([replace(row, vs_full=plain)])["vs full"][0].startswith("-12.5 % [")


def test_notes_say_what_must_be_known(made, tmp_path):
    make_run(tmp_path, "fastv@2:8", keys=KEYS[:8], failed=KEYS[:2])
    rows, _ = collect([made, tmp_path])
    said = "\n".join(notes(rows, [Path("slow")]))
    assert (
        "mme, full, fastv@2-64, random@2-64, fastv@2-16: scored over the 3 of 14 subtasks present" in said
        and said.count("3 of 14") == 1
    )
    assert "fastv@2-8: 2 of 8 questions failed and count as wrong." in said
    assert "slow is not finished and not shown." in said
    assert "Not compared with full, since that run had other questions (24, not 8): fastv@2-8." in said
    assert "mean ± standard deviation over the seeds" in said
    assert "Holm's correction for 4 comparisons" in said


def test_a_remark_that_some_runs_make_names_them(made):
    full, reduced = collect([made])[0][:2]
    remarks = [replace(full, task="boxes", note=""), replace(reduced, task="boxes", note="1 of 4 answers hold no box")]
    said = notes([*remarks, replace(full, note="all three"), replace(reduced, note="all three")])
    assert f"boxes, {reduced.plan}: 1 of 4 answers hold no box." in said and said.count("mme: all three.") == 1


def test_models_that_say_different_things_of_a_task_are_named_in_place_of_all_their_plans(made):
    rows = [replace(row, note="without OCR") for row in collect([made])[0]]
    said = notes([*rows, *(replace(row, model="other", note="with naming") for row in rows)])
    assert f"mme on {rows[0].model}: without OCR." in said and "mme on other: with naming." in said


def test_no_comparison_no_word_about_them(tmp_path):
    make_run(tmp_path, "full", keys=KEYS)
    said = "\n".join(notes(*collect([tmp_path])))
    assert "Holm" not in said and "95 % bootstrap" in said


def test_what_the_correction_takes_back_is_said_with_a_perhaps(made):
    """Called worse by its interval, but two questions apart have an exact p of 0.5 at least."""
    rows, _ = collect([made])
    rows[1] = replace(rows[1], vs_full=replace(rows[1].vs_full, verdict="worse", p=0.04, p_holm=0.16))
    assert " perhaps worse (p = 0.160)" in texts(rows)["vs full"][1]
    assert "perhaps: by the interval alone, not by the corrected p; of 4 intervals about 0.2" in "\n".join(notes(rows))
    sure = [replace(row, vs_full=row.vs_full and replace(row.vs_full, p_holm=0.04), vs_random=None) for row in rows]
    assert "perhaps" not in "".join([*texts(sure)["vs full"], *notes(sure)])

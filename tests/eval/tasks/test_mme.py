"""MME: the official parse and scores, the two places where truth lies, and what is wrong in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.eval.tasks.base import get_task
from llava.eval.tasks.mme import SUBTASKS, Mme, calculate, parse_answer, score_pairs
from llava.shapes.export import export
from tests.conftest import PARITY
from tests.eval.tasks.lines import answered

ANSWERS = PARITY / "mme"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return export("mme", tmp_path_factory.mktemp("data") / "MME-shapes", images=2)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("yes", "yes"), ("Yes", "yes"), ("Yes.", "yes"), ("No, it", "no"), (" yes", "yes"), ("I think yes", "other"),
        ("know", "no"), ("none", "no"), ("", "other"), ("Maybe", "other"), ("eyes", "yes"), ("no yes", "no"),
    ],
)  # fmt: skip
def test_parse(text, read):
    assert parse_answer(text) == read


def test_two_pictures_one_fully_right_score_125():
    """Right, right; right, wrong: acc 3/4, acc+ 1/2, so 100 * (0.75 + 0.5) = 125."""
    found = score_pairs([(("yes", "Yes"), ("no", "No")), (("yes", "yes, it is"), ("no", "Yes"))])
    assert found["score"] == 125
    assert (found["acc"], found["acc_plus"]) == (0.75, 0.5)
    assert [found[name] for name in ("tp", "fn", "tn", "fp", "other")] == [2, 0, 1, 1, 0]
    assert (found["precision"], found["recall"]) == (2 / 3, 1)


def test_other_counts_as_wrong_and_leaves_precision_alone():
    found = score_pairs([(("yes", "Yes"), ("no", "perhaps"))])
    assert (found["acc"], found["acc_plus"], found["other"], found["precision"]) == (0.5, 0, 1, 1)


@pytest.mark.skipif(not ANSWERS.is_dir(), reason="the recorded answers are not beside this checkout")
def test_official_scores_of_a_real_model():
    expected = json.loads((ANSWERS / "expected_scores.json").read_text())
    found = calculate(ANSWERS)
    assert found["perception"] == pytest.approx(expected["perception_total"], abs=1e-9)
    assert found["cognition"] == pytest.approx(expected["cognition_total"], abs=1e-9)
    scores = {name: figures["score"] for name, figures in found["subtasks"].items()}
    assert scores == pytest.approx(expected["scores"], abs=1e-9)
    assert found["max_score"] == 2800
    assert "note" not in found


def test_a_subset_is_scored_over_what_is_there_and_says_so(tmp_path):
    (tmp_path / "count.txt").write_text("a.png\tq\tYes\tyes\na.png\tr\tNo\tNo.\n")
    found = calculate(tmp_path)
    assert (found["score"], found["max_score"], found["cognition_max"]) == (200, 200, 0)
    assert "1 of 14 subtasks" in found["note"]
    assert len(found["missing"]) == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png\tq\tYes\tyes\n", "1 lines"),
        ("a.png\tq\tYes\tyes\nb.png\tr\tNo\tno\n", "count.txt:2 is of 'b.png'"),
        ("a.png\tq\tYes\tyes\na.png\tr\tMaybe\tno\n", "count.txt:2 is not picture"),
        ("a.png\tq\tYes\n", "count.txt:1 is not picture"),
    ],
)
def test_a_bad_answer_file_is_named(tmp_path, content, message):
    (tmp_path / "count.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        calculate(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no answer file of MME"):
        calculate(tmp_path)


def test_reads_the_exported_layout(exported):
    task = get_task("mme")(exported)
    assert isinstance(task, Mme)
    assert len(task.examples) == 32
    assert [example.label for example in task.examples] == ["Yes", "No"] * 16
    assert len({example.key for example in task.examples}) == 32
    assert all(example.image.is_file() for example in task.examples)
    assert {example.category for example in task.examples} <= set(SUBTASKS)


def test_metrics_of_perfect_and_of_constant_answers(exported):
    task = Mme(exported)
    right = task.metrics(answered(task, lambda example: example.label))
    assert (right["accuracy"], right["score"], right["max_score"]) == (1, 1600, 1600)
    assert 0.7 < right["accuracy_interval"][0] < 0.9 and right["accuracy_interval"][1] == 1
    assert 1200 < right["score_interval"][0] < 1400 and right["score_interval"][1] == 1600
    assert (right["perception_max"], right["cognition_max"]) == (1200, 400)
    assert "8 of 14" in right["note"]
    always = task.metrics(answered(task, lambda example: "Yes"))
    assert (always["accuracy"], always["score"]) == (0.5, 400)


def test_interval_covers_the_score(exported):
    task = Mme(exported)
    lines = answered(task, lambda example: example.label if "0001" in example.key else "Yes")
    found = task.metrics(lines)
    assert found["accuracy_interval"][0] < found["accuracy"] < found["accuracy_interval"][1]
    assert found["score_interval"][0] < found["score"] < found["score_interval"][1]
    assert found == task.metrics(lines)


def test_limit_keeps_whole_pictures_of_every_subtask(exported):
    task = Mme(exported, limit=17)
    assert len(task.examples) == 16
    assert len({example.category for example in task.examples}) == 8
    assert all(task.examples[i].picture == task.examples[i + 1].picture for i in range(0, 16, 2))
    assert len(Mme(exported, limit=1).examples) == 2
    with pytest.raises(ValueError, match="limit=0"):
        Mme(exported, limit=0)


def test_half_a_picture_has_no_score(exported):
    task = Mme(exported)
    with pytest.raises(ValueError, match="1 of its two"):
        task.metrics(answered(task, lambda example: "yes")[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: ["{", *lines[1:]], "jsonl:1 is not JSON"),
        (lambda lines: [json.dumps({"question_id": "x"}), *lines], "jsonl:1 lacks image, text, category"),
        (lambda lines: [lines[0], *lines], "jsonl:2 asks twice what .*jsonl:1 does"),
        (lambda lines: lines[1:], "jsonl:1: existence/0001.png has 1 question"),
        (lambda lines: [*lines, lines[0].replace("Is there", "Is it")], "has no answer to 'Is it"),
        (lambda lines: [lines[0].replace('"existence"', '"existense"'), *lines[1:]], "did you mean 'existence'"),
        (lambda lines: [lines[0].replace("Is there", "Was there"), *lines[1:]], "has no answer to 'Was there"),
        (lambda lines: [], "holds no question of mme"),
    ],
)
def test_a_bad_question_file_is_named(exported, tmp_path, spoil, message):
    folder = tmp_path / "data"
    shutil.copytree(exported, folder)
    file = folder / "llava_mme.jsonl"
    file.write_text("".join(line + "\n" for line in spoil(file.read_text().splitlines())))
    with pytest.raises(ValueError, match=message):
        Mme(folder)


def test_the_forks_list_asks_the_same_and_knows_the_answers(exported, tmp_path):
    """``MME_test.json``: both instructions in the prompt, the truth in the file, pictures wherever they are said to be."""
    task = Mme(exported / "MME_test.json")
    official = Mme(exported)
    assert [example.key for example in task.examples] == [example.key for example in official.examples]
    assert [example.label for example in task.examples] == [example.label for example in official.examples]
    assert [task.strip_instructions(one.text) for one in task.examples] == [
        official.strip_instructions(one.text) for one in official.examples
    ]
    assert task.examples[0].image.is_file()
    assert task.prompt(task.examples[0]).endswith(
        "? Please answer yes or no.\nAnswer the question using a single word or phrase."
    )
    alone = tmp_path / "MME_test.json"
    shutil.copy(exported / "MME_test.json", alone)
    assert Mme(alone, images="/elsewhere").examples[0].image == Path("/elsewhere/existence/0001.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "Perhaps"}, "record 1: answer='Perhaps' must be Yes or No"),
        ({"category": "colour"}, "record 1: category='colour'.*did you mean 'color'"),
        (None, "record 1 lacks question_id"),
    ],
)
def test_a_bad_record_of_the_forks_list_is_named(exported, tmp_path, change, message):
    records = json.loads((exported / "MME_test.json").read_text())
    records[0] = {} if change is None else {**records[0], **change}
    file = tmp_path / "MME_test.json"
    file.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=message):
        Mme(file)


def test_truth_is_beside_pictures_that_lie_elsewhere(exported, tmp_path):
    shutil.copy(exported / "llava_mme.jsonl", tmp_path)
    task = Mme(tmp_path / "llava_mme.jsonl", images=exported / "MME_Benchmark_release_version")
    assert [example.label for example in task.examples] == ["Yes", "No"] * 16


def test_missing_files_are_named(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="llava_mme.jsonl does not exist"):
        Mme(tmp_path)
    folder = tmp_path / "data"
    shutil.copytree(exported, folder)
    (folder / "MME_Benchmark_release_version/scene/questions_answers_YN/0002.txt").unlink()
    with pytest.raises(FileNotFoundError, match="scene/questions_answers_YN/0002.txt"):
        Mme(folder)


def test_subtasks_that_mme_has_not_count_in_the_sum_alone(tmp_path):
    for name, second in (("count", "No"), ("kind", "Yes"), ("naming", "No")):
        (tmp_path / f"{name}.txt").write_text(f"a.png\tq\tYes\tYes\na.png\tr\tNo\t{second}\n")
    found = calculate(tmp_path)
    assert (found["score"], found["max_score"]) == (450, 600)
    assert (found["perception"], found["perception_max"], found["cognition"], found["cognition_max"]) == (
        200,
        200,
        0,
        0,
    )
    assert (found["further"], found["further_max"]) == (250, 400)
    assert "1 of 14 subtasks" in found["note"] and found["note"].endswith("with kind, naming, which MME has not")
    (tmp_path / "kind.txt").unlink()
    (tmp_path / "naming.txt").unlink()
    assert "further" not in calculate(tmp_path)

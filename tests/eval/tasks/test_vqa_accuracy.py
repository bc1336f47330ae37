"""The normal form of answers and the agreement with ten people, worked out by hand."""

from __future__ import annotations

import pytest

from llava.eval.tasks.vqa_accuracy import CONTRACTIONS, most_common, normalise, soft_accuracy, ten_answers


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A red T-shirt.", "red t shirt"),  # no article, no period, the hyphen a blank
        ("an apple on the table", "apple on table"),
        ("Three", "3"),
        ("none", "0"),
        ("2,000", "2000"),
        ("2.5", "2.5"),  # a point before a digit stays
        ("u.s.a.", "usa"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("what's up?", "what 's up"),
        ("yes / no", "yes no"),  # a mark beside a blank goes
        ("yes/no", "yes no"),  # else it becomes one
        ("-5 -6", "5 6"),
        ("Coca\tCola\n", "coca cola"),
        ("im", "im"),  # the server's table has no such entry
        ("", ""),
    ],
)
def test_normal_form(text, form):
    assert normalise(text) == form
    assert normalise(form) == normalise(normalise(form))


def test_every_missing_apostrophe_is_put_back():
    assert CONTRACTIONS["aint"] == "ain't"
    assert CONTRACTIONS["wouldnt've"] == CONTRACTIONS["wouldn'tve"] == "wouldn't've"
    assert "ill" not in CONTRACTIONS and "lets" not in CONTRACTIONS


@pytest.mark.parametrize(("same", "credit"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_agreement_leaves_each_person_out(same, credit):
    """Three of ten said it. Without one of them two are left: min(1, 2/3); else three: 1. (3 * 2/3 + 7 * 1) / 10 = 0.9."""
    assert soft_accuracy("Yes.", ["yes"] * same + ["no"] * (10 - same)) == pytest.approx(credit)


def test_people_are_normalised_too():
    assert soft_accuracy("2", ["two", "Two.", "2", "a two", *["x"] * 6]) == 1


def test_most_common_answer_is_the_first_of_equals():
    assert most_common(["b", "a", "a", "b", "c"]) == "b"


@pytest.mark.parametrize("answers", [["x"] * 9, ["x"] * 11, None, [3] * 10, [{"said": "x"}] * 10])
def test_not_ten_answers_are_refused(answers):
    with pytest.raises(ValueError, match="here: answers must be those of 10 people"):
        ten_answers("here", answers)


def test_answers_may_be_words_or_objects():
    assert ten_answers("here", [{"answer": "x"}] * 10) == ten_answers("here", ["x"] * 10) == ["x"] * 10

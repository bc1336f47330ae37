"""Folders that are complete or absent, and folders of work that is resumed."""

from __future__ import annotations

import pytest

from llava.folders import begin, differences, is_made, new_folder


def test_work_is_gone_on_from_where_it_was_begun_with_the_same(tmp_path):
    folder, made = tmp_path / "a" / "work", {"seed": 1, "mix": {"yes": 0.5}}
    begin(folder, "made.json", made)
    (folder / "piece").write_text("done")
    begin(folder, "made.json", made)
    assert (folder / "piece").read_text() == "done"
    with pytest.raises(
        ValueError, match=r"work of another: mix.yes is 0.5 there and 0.6 now. Give another folder, or re"
    ):
        begin(folder, "made.json", {"seed": 1, "mix": {"yes": 0.6}})
    (folder / "made.json").unlink()
    with pytest.raises(ValueError, match="holds what is not said in made.json"):
        begin(folder, "made.json", made)


def test_differences_are_named_from_the_top():
    there, now = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "e": None, "d": [1]}
    assert differences(there, now) == "a.c is 2 there and 3 now"
    assert differences(there, now, free=["a.c"]) == "" == differences(there, there)
    assert differences({}, {"x": "y"}) == "x is None there and 'y' now"


def test_another_making_is_refused_by_what_differs(tmp_path):
    with new_folder(tmp_path / "made") as partial:
        (partial / "mark.json").write_text('{"seed": 1}')
    assert is_made(tmp_path / "made", "mark.json", {"seed": 1}, "build", "built")
    with pytest.raises(ValueError, match="holds another build: seed is 1 there and 2 now; give another folder"):
        is_made(tmp_path / "made", "mark.json", {"seed": 2}, "build", "built")
    assert not is_made(tmp_path / "none", "mark.json", {}, "build", "built")

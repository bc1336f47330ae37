"""The reader agrees with Python's own JSON on what is right, and names file and line of what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava.files import (
    EXCERPT,
    excerpt,
    numbered_jsonl,
    numbered_lines,
    numbered_records,
    read_json,
    read_jsonl,
    read_text,
    write_json,
    write_jsonl,
    write_text,
)

SAME_FOLDER = settings(
    max_examples=50, deadline=5000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | CHARACTERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CHARACTERS, inner, max_size=3),
    max_leaves=8,
)
SEPARATORS = ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e", "\r"]


@pytest.mark.parametrize("separator", SEPARATORS, ids=ascii)
def test_a_line_ends_at_a_line_feed_only(tmp_path, separator):
    file = tmp_path / "lines.txt"
    file.write_bytes(f"one{separator}two\r\n\nthree".encode())
    assert list(numbered_lines(file)) == [(1, f"one{separator}two"), (3, "three")]


@SAME_FOLDER
@given(records=st.lists(st.dictionaries(CHARACTERS, VALUES, max_size=3)), escaped=st.booleans(), mark=st.booleans())
def test_json_lines_read_as_pythons_own_iteration_reads_them(tmp_path, records, escaped, mark):
    file = tmp_path / "records.jsonl"
    text = "".join(json.dumps(record, ensure_ascii=escaped) + "\n" for record in records)
    file.write_text(text, encoding="utf-8-sig" if mark else "utf-8")
    assert read_jsonl(file) == records
    file.write_text(json.dumps(records, ensure_ascii=escaped), encoding="utf-8-sig" if mark else "utf-8")
    assert read_json(file, list) == records


@SAME_FOLDER
@given(records=st.lists(st.dictionaries(CHARACTERS, VALUES, max_size=3)))
def test_what_is_written_reads_back(tmp_path, records):
    write_json(tmp_path / "records.json", records)
    write_jsonl(tmp_path / "records.jsonl", records)
    assert read_json(tmp_path / "records.json", list) == read_jsonl(tmp_path / "records.jsonl") == records
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.json", "records.jsonl"]


@SAME_FOLDER
@given(content=st.binary(max_size=60) | st.text(st.sampled_from('[]{}",:\\u d83e019\n'), max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_by_name(tmp_path, content):
    file = tmp_path / "any.jsonl"
    file.write_bytes(content)
    for read in (read_json, read_jsonl, lambda file: list(numbered_records(file))):
        try:
            read(file)
        except ValueError as error:
            assert str(file) in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": ', r"f.jsonl:2 is not JSON: Expecting value at column 7"),
        (b'{"a": 1}\n' + b"[" * 10**6, "f.jsonl:2 is nested too deeply"),
        (b'{"a": 1}\n\n{"a": "\\ud83d and more"}', r"f.jsonl:3 holds \\ud83d, half of a surrogate pair"),
        (b'{"a": "\\ude00\\ud83d"}', r"f.jsonl:1 holds \\ude00"),
        (b'{"a": 1}\n{"b": 1}', "f.jsonl:2 lacks a; it needs a"),
        (b'{"a": 1}\n[1, 2]', r"f.jsonl:2 is \[1, 2\] where an object belongs"),
        (b'{"a": 1}\n{"a": ' + b"1" * 5000 + b"}", "f.jsonl:2 holds a number of too many digits"),
        ('{"a": 1}\n{"a": "ä"}'.encode("latin-1"), "f.jsonl:2 is not text in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "f.jsonl:1 is not text in UTF-8"),
    ],
)
def test_an_error_names_file_and_line(tmp_path, content, message):
    (tmp_path / "f.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(numbered_jsonl(tmp_path / "f.jsonl", ["a"]))


def test_whole_surrogate_pairs_and_escaped_backslashes_are_characters(tmp_path):
    file = tmp_path / "f.json"
    file.write_text(r'{"pair": "\ud83d\ude00", "words": "C:\\ud83d", "upper": "\uD83D\uDE00"}')
    assert read_json(file) == {"pair": "\U0001f600", "words": "C:\\ud83d", "upper": "\U0001f600"}
    file.write_text('{\n"a": 1,\n"half": "\\ud83d\\n"}')
    with pytest.raises(ValueError, match=r"f.json:3 holds \\ud83d"):
        read_json(file)
    assert read_json(file, surrogates=True)["half"] == "\ud83d\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "f.json holds a list where a dict belongs; remove it"),
        ('{\n"a": }', "f.json:2 is not JSON: .*; remove it"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_advice(tmp_path, content, message):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "f.json", hint="remove it")


def test_records_lie_in_a_list_or_under_a_name(tmp_path):
    file = tmp_path / "f.json"
    write_json(file, [{"a": 1}, {"a": 2}])
    assert list(numbered_records(file, ["a"])) == [(f"{file}, record 1", {"a": 1}), (f"{file}, record 2", {"a": 2})]
    with pytest.raises(ValueError, match="record 1 lacks b"):
        list(numbered_records(file, ["b"]))
    write_json(file, {"data": [{"a": 1}, None]})
    with pytest.raises(ValueError, match="record 2 is None where an object belongs"):
        list(numbered_records(file, ["a"], inside="data"))
    with pytest.raises(ValueError, match="has no list named other"):
        list(numbered_records(file, ["a"], inside="other"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.json does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_text(tmp_path)


@pytest.mark.parametrize("value", ["x" * 10**6, [["x" * 1000] * 1000] * 1000, {str(i): i for i in range(10**5)}, 1.5])
def test_an_excerpt_is_short(value):
    assert len(excerpt(value)) <= EXCERPT + 3


def test_an_excerpt_shows_a_short_value_whole():
    assert excerpt(["a.png", None, {"b": 1}]) == "['a.png', None, {'b': 1}]"


def test_a_file_is_whole_or_what_it_was(tmp_path, monkeypatch):
    file = tmp_path / "f.json"
    write_text(file, "old")

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"f.json cannot be written \(No space left on device\); make room") as caught:
        write_text(file, "new")
    assert caught.value.errno == 28
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"] and file.read_text() == "old"


def test_links_and_devices_are_written_through(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "text"
    write_text("/dev/null", "text")
    assert not Path("/dev/null").is_file()

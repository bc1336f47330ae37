"""The one reader of text, JSON, JSON lines, records and strict YAML, and the one writer of whole files.

A line ends at ``\\n`` or ``\\r\\n`` and nowhere else: JSON allows U+2028, U+2029 and U+0085 inside a text, at which
``str.splitlines`` cuts. A byte order mark in front is skipped. Every error is a ValueError that names file and line, or an
OSError (FileNotFoundError) that names the file.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

EXCERPT = 200  # characters of a value that an error message shows
LONGEST_YAML = 32 * 1024  # bytes
DEEPEST_YAML = 8  # deepest nesting of mappings and lists

# The fields that a record must have: names, or names with the types of their values, where a type that takes None means
# that the field may be null or absent.
Fields = Sequence[str] | Mapping[str, type | UnionType]
KINDS = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object", type(None): "null"}

SURROGATE = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which neither a tokenizer nor a file takes
# Surrogate pairs, then a surrogate on its own (group 1), then every other escape of a JSON text.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class _Excerpt(reprlib.Repr):
    """Shortens nested values before they are spelled, so that a message costs the same for a value of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, EXCERPT // 2, EXCERPT // 2, 40


def excerpt(value: object) -> str:
    """``repr`` of a value for an error message, at most about ``EXCERPT`` characters long whatever the value."""
    text = _Excerpt().repr(value)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."


# ------------------------------------------------------------------------------------------------------------- reading


def read_text(file: str | Path) -> str:
    """The text of a file in UTF-8, without its byte order mark; line ends stay as they are.

    Raises FileNotFoundError naming the file, or ValueError naming file and line for bytes that are not UTF-8.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist" if not file.exists() else f"{file} is not a file")
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise ValueError(f"{file}:{line} is not text in UTF-8: {error.reason}; save the file as UTF-8") from None


def numbered_lines(file: str | Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line of a file that is not blank. Raises what ``read_text`` does."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def parse_json(text: str, file: str | Path, line: int = 1, *, surrogates: bool = False) -> Any:
    """The value of a JSON text that begins at ``line`` of ``file``.

    surrogates: let halves of surrogate pairs (``"\\ud83d"``) pass; they are not characters, so neither a tokenizer nor
    a file takes them. Raises ValueError naming file and line for what is not JSON, is nested too deeply or holds such a
    half.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{file}:{line + error.lineno - 1}"
        raise ValueError(f"{place} is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"{file}:{line} is nested too deeply") from None
    except ValueError:
        raise ValueError(f"{file}:{line} holds a number of too many digits") from None
    if not surrogates and (half := _lone_surrogate(text)):
        raise ValueError(
            f"{file}:{line + text.count(chr(10), 0, half.start())} holds {half[0]}, half of a surrogate pair and no "
            "character; write the whole pair or take it out"
        )
    return value


def _lone_surrogate(text: str) -> re.Match[str] | None:
    """The first escape of a JSON text that is half of a surrogate pair."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    return next((escape for escape in _ESCAPE.finditer(text) if escape[1]), None)


def read_json(file: str | Path, kind: type = dict, hint: str = "", *, surrogates: bool = False) -> Any:
    """The dict (or, with ``kind``, the list) of a JSON file.

    hint: what to do, added to an error about the content. Raises what ``read_text`` and ``parse_json`` do, and ValueError
    naming the file for a value of another kind.
    """
    advice = f"; {hint}" if hint else ""
    try:
        content = parse_json(read_text(file), file, surrogates=surrogates)
    except ValueError as error:
        raise ValueError(f"{error}{advice}") from None
    if not isinstance(content, kind):
        raise ValueError(f"{file} holds a {type(content).__name__} where a {kind.__name__} belongs{advice}")
    return content


def numbered_jsonl(file: str | Path, fields: Fields = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line of a JSON lines file; each object must have ``fields``.

    Raises what ``read_text`` and ``parse_json`` do, and ValueError naming file and line for a line that is no object,
    lacks a field or has one of another type.
    """
    for number, line in numbered_lines(file):
        record = parse_json(line, file, number)
        require_fields(f"{file}:{number}", record, fields)
        yield number, record


def read_jsonl(file: str | Path, fields: Fields = ()) -> list[dict[str, Any]]:
    """The objects of a JSON lines file; see ``numbered_jsonl``."""
    return [record for _, record in numbered_jsonl(file, fields)]


def numbered_records(
    file: str | Path, fields: Fields = (), inside: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place ("FILE, record 3") and object of every entry of a JSON list; each object must have ``fields``.

    inside: the list is what the file's dict holds under this name. Raises what ``read_json`` does, and ValueError naming
    file and record.
    """
    records = read_json(file, list if inside is None else dict)
    if inside is not None:
        records = records.get(inside)
        if not isinstance(records, list):
            raise ValueError(f"{file} has no list named {inside}")
    for number, record in enumerate(records, start=1):
        place = f"{file}, record {number}"
        require_fields(place, record, fields)
        yield place, record


def require_fields(place: str, record: Any, fields: Fields) -> None:
    """Raises ValueError naming ``place`` unless the record is an object that has all fields, each of its type."""
    if not isinstance(record, dict):
        raise ValueError(f"{place} is {excerpt(record)} where an object belongs")
    types = fields if isinstance(fields, Mapping) else dict.fromkeys(fields, object)
    needed = [field for field, kind in types.items() if kind is object or not isinstance(None, kind)]
    missing = [field for field in needed if field not in record]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}; it needs {', '.join(needed)}")
    for field, kind in types.items():
        if not isinstance(record.get(field), kind):
            allowed = " or ".join(KINDS[each] for each in getattr(kind, "__args__", (kind,)))
            raise ValueError(f"{place}: {field}={excerpt(record[field])} must be {allowed}")


class _StrictLoader(yaml.SafeLoader):
    """YAML's JSON-like part: null, booleans, numbers, text, lists and mappings without repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ValueError(f"line {key_node.start_mark.line + 1}: the key {excerpt(key)} is no word")
            if key in mapping:
                raise ValueError(f"line {key_node.start_mark.line + 1}: the key {excerpt(key)} is given twice")
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping

    def construct_whole(self, node: Any) -> int:
        return int(self.construct_scalar(node))

    def construct_float(self, node: Any) -> float:
        return float(self.construct_scalar(node))


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,18}", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_whole)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_float)


def read_yaml(file: str | Path) -> Any:
    """The value of a YAML file of at most 32 KiB that is written by hand, read strictly.

    A repeated key, an alias, a tag, or deep nesting is refused, and nothing is read as something other than what it
    looks like, which YAML 1.1 does: ``0100`` is a hundred, ``no`` is a word. Raises FileNotFoundError, and ValueError
    naming file and fault.
    """
    file = Path(file)
    if file.is_file() and (size := file.stat().st_size) > LONGEST_YAML:
        raise ValueError(f"{file} has {size} bytes; such a file has at most {LONGEST_YAML}")
    text = read_text(file)
    try:
        _check_events(text)
        return yaml.load(text, _StrictLoader)  # noqa: S506  a safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _check_events(text: str) -> None:
    """Refuse what makes a small file large or a reader recursive, before anything is built."""
    depth = 0
    for event in yaml.parse(text, _StrictLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line}: aliases are not allowed")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: the tag {excerpt(event.tag)} is not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            raise ValueError(f"line {line}: lists and mappings lie deeper than {DEEPEST_YAML}")


# ------------------------------------------------------------------------------------------------------------- writing


def write_text(file: str | Path, text: str) -> None:
    """Write a file in UTF-8 so that it is either complete or unchanged; the folder must exist.

    Raises OSError naming the file where it cannot be written, for example on a full disk.
    """
    file = Path(file)
    try:
        if file.exists() and not file.is_file():  # a pipe or a device takes text, but must not be replaced
            file.write_text(text, encoding="utf-8", newline="\n")
            return
        target = file.resolve()  # a link stays a link
        partial = target.with_name(f".{target.name}.partial")
        try:
            partial.write_text(text, encoding="utf-8", newline="\n")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{file} cannot be written ({error.strerror}); make room, or give a folder that is there and writable",
        ) from None


def write_json(file: str | Path, content: object) -> None:
    """Write a value as JSON, indented; see ``write_text``."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(file: str | Path, records: Iterable[object]) -> None:
    """Write one record per line; see ``write_text``."""
    write_text(file, "".join(f"{json.dumps(record)}\n" for record in records))

"""Plans in YAML files: the key ``reduction``, with a list of stages or a short spelling.

A file may also hold ``budgets``, a paper's plans by their labels: ``{"64": visionzip:64}``.

The files are read strictly. A key that stands twice, an alias, a tag, or deep nesting is refused, and so is everything
that YAML 1.1 reads as something else than it looks like: ``0100`` is a hundred, ``no`` is a word.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .checks import shown

LONGEST = 32 * 1024  # bytes
DEEPEST = 8  # mappings and lists within one another


class _Loader(yaml.SafeLoader):
    """YAML's JSON-like part: null, booleans, numbers, text, lists and mappings without repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ValueError(f"line {key_node.start_mark.line + 1}: the key {shown(key)} is no word")
            if key in mapping:
                raise ValueError(f"line {key_node.start_mark.line + 1}: the key {shown(key)} is given twice")
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
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_float)


def read_plan_file(file: Path) -> dict[str, Any]:
    """What a plan file holds, ``reduction`` and perhaps ``budgets``.

    Raises FileNotFoundError, and ValueError naming file and fault.
    """
    if not os.path.isfile(file):
        raise FileNotFoundError(f"no plan file {shown(str(file))}")
    if (size := file.stat().st_size) > LONGEST:
        raise ValueError(f"{file} has {size} bytes; a plan file has at most {LONGEST}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
        _check_events(text)
        content = yaml.load(text, _Loader)  # noqa: S506  a safe loader
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(content, dict) or "reduction" not in content or set(content) - {"reduction", "budgets"}:
        raise ValueError(
            f"{file} must hold the key 'reduction', with a list of stages, and may hold 'budgets', plans by their labels"
        )
    return content


def _check_events(text: str) -> None:
    """Refuse what makes a small file large or a reader recursive, before anything is built."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line}: aliases are not allowed in a plan file")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: the tag {shown(event.tag)} is not allowed in a plan file")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"line {line}: lists and mappings lie deeper than {DEEPEST}")

"""How values are written in a plan and read back, and where a plan is cut into its parts.

A value is a number in ASCII digits, ``true``, ``false``, or text. Text that would be cut, or read as something else, is
written as a JSON string: ``weights="a+b,c"``.
"""

from __future__ import annotations

import json
import re

from .checks import MOST, shown

_WHOLE = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WORDS = {"true": True, "false": False}
_PLAIN = re.compile(r"[^\s+,\"]+")  # text that nothing cuts


def cut(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are not inside quotes. Raises ValueError for quotes that do not end."""
    parts, start, position = [], 0, 0
    while position < len(text):
        if text[position] == '"':
            position = _quoted_end(text, position)
        elif text[position] == separator:
            parts.append(text[start:position])
            start = position = position + 1
        else:
            position += 1
    return [*parts, text[start:]]


def _quoted_end(text: str, start: int) -> int:
    """The position after the JSON string that begins at ``start``."""
    position = start + 1
    while position < len(text) and text[position] != '"':
        position += 2 if text[position] == "\\" else 1
    if position >= len(text):
        raise ValueError(f"the quotes in {shown(text)} do not end")
    return position + 1


def read_value(text: str) -> int | float | bool | str:
    """A value from its spelling. Raises ValueError for numbers that no computer number holds, and for broken quotes."""
    if text.startswith('"'):
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError(f"cannot read {shown(text)}; quoted text is written as in JSON") from None
    if _WHOLE.fullmatch(text):
        if len(text) > len(str(MOST)) + 1 or abs(number := int(text)) > MOST:
            raise ValueError(f"{shown(text)} is too large; whole numbers go up to {MOST}")
        return number
    if _FLOAT.fullmatch(text):
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"{shown(text)} is too large for a number")
        return value
    return _WORDS.get(text.lower(), text)


def spell_value(value: object) -> str:
    """What ``read_value`` reads as this value, and ``cut`` leaves whole."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).replace("e+", "e")
    if not isinstance(value, str):
        return str(value)
    number = _WHOLE.fullmatch(value) or _FLOAT.fullmatch(value) or value.lower() in _WORDS
    return value if _PLAIN.fullmatch(value) and not number else json.dumps(value, ensure_ascii=False)

"""Lines of a run as a task gets them back, from what a model is pretended to say."""

from __future__ import annotations

from collections.abc import Callable

from llava.eval.tasks.base import Example, Line, Task


def answered(task: Task, reply: Callable[[Example], str]) -> list[Line]:
    lines = []
    for example in task.examples:
        text = reply(example)
        about = {"key": example.key, "picture": example.picture, "category": example.category, "text": text}
        lines.append({**about, **task.score(example, text)})
    return lines

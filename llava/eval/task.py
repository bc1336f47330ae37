"""Another name of ``llava.eval.tasks.base``, with the readers of ``llava.files``."""

from llava.eval.tasks.base import Example, Line, Task, get_task, list_tasks
from llava.files import numbered_jsonl, numbered_records, read_json, read_jsonl

__all__ = [
    "Example",
    "Line",
    "Task",
    "get_task",
    "list_tasks",
    "numbered_jsonl",
    "numbered_records",
    "read_json",
    "read_jsonl",
]

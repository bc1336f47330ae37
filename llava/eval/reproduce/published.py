"""Published accuracies, as facts in YAML: one file for each source, read strictly.

The schema is described in ``configs/published/README.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from llava.files import excerpt, read_yaml
from llava.reduction import did_you_mean
from llava.shipped import HOME, PUBLISHED

from ..tasks.base import get_task, list_tasks

FOLDER = HOME / PUBLISHED
OTHER_BENCHMARKS = ("chartqa", "mmbench", "mmbench_cn", "mmvet", "vizwiz")  # printed by papers and not evaluated here
OTHER_METRICS = ("accuracy", "score")
ACCOUNTINGS = {
    "entering": "visual tokens that enter the language model",
    "mean": "mean visual tokens over the decoder layers",
    "after": "visual tokens left after the layer where they are pruned",
    "unknown": "the source does not say",
}
NUMBER = int | float
Kinds = Mapping[str, type | UnionType]

DOCUMENT: Kinds = {"source": str, "model": str, "rows": list}
DOCUMENT_OPTIONS: Kinds = {"url": str, "tokens": int, "metrics": dict, "base": dict}
BASE_OPTIONS: Kinds = {"scores": dict, "average": NUMBER}
ROW: Kinds = {"method": str, "label": NUMBER, "accounting": str}
ROW_OPTIONS: Kinds = {
    "mean_tokens": NUMBER,
    "plan": str,
    "scores": dict,
    "relative": NUMBER,
    "average": NUMBER,
    "trained": bool,
    "note": str,
}
WORDS = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    NUMBER: "a number",
}


@dataclass(frozen=True)
class PublishedRow:
    """One method under one label of a source.

    ``label``: what the source calls the budget, a count of visual tokens or a share. ``accounting``: what that counts, one of
    ``ACCOUNTINGS``. ``mean_tokens``: mean visual tokens over the layers that it really amounts to, None where not
    known. ``plan``: the plan that was run, None where the method's own budget of that label is meant. ``scores`` by
    benchmark; ``relative``: mean of the ratios to the unreduced row in per cent; ``average``: mean of the scores.
    ``trained``: the model was trained for it.
    """

    method: str
    label: int | float
    accounting: str
    mean_tokens: float | None = None
    plan: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    relative: float | None = None
    average: float | None = None
    trained: bool = False
    note: str = ""


@dataclass(frozen=True)
class Publication:
    """A table of a paper: which model, which figure of each benchmark (``metrics``), the unreduced row, and the rows.

    ``name`` is the file's; ``tokens`` are the visual tokens of a picture without reduction. ``base`` and ``base_average``
    hold what the source prints for the unreduced model.
    """

    name: str
    source: str
    url: str | None
    model: str
    tokens: int | None
    metrics: Mapping[str, str]
    base: Mapping[str, float]
    base_average: float | None
    rows: tuple[PublishedRow, ...]


def read_publications(folder: Path = FOLDER) -> list[Publication]:
    """All files of a folder, by name. Raises FileNotFoundError for one without any, and what ``read_publication`` does."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no published rows; give the folder configs/published of the repository"
        )
    return [read_publication(file) for file in files]


def read_publication(file: Path) -> Publication:
    """One file. Raises ValueError naming file, row and key for what the schema does not allow, and FileNotFoundError."""
    content = _checked(str(file), read_yaml(file), DOCUMENT, DOCUMENT_OPTIONS)
    metrics = content.get("metrics", {})
    for benchmark, metric in metrics.items():
        allowed = _metrics_of(f"{file}, metrics", benchmark)
        if metric not in allowed:
            raise ValueError(f"{file}, metrics: {benchmark}={excerpt(metric)} must be one of {', '.join(allowed)}")
    base = _checked(f"{file}, base", content.get("base", {}), {}, BASE_OPTIONS)
    rows = [_row(f"{file}, row {number}", row, metrics) for number, row in enumerate(content["rows"], start=1)]
    if not rows:
        raise ValueError(f"{file}: rows is empty; a source has at least one")
    names = [(row.method, row.label, row.accounting, row.trained) for row in rows]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(
                f"{file}, row {number + 1}: {name[0]} at {name[1]:g} is there already; leave one of the two"
            )
    return Publication(
        name=file.stem,
        source=content["source"],
        url=content.get("url"),
        model=content["model"],
        tokens=content.get("tokens"),
        metrics=metrics,
        base=_scores(f"{file}, base", base.get("scores", {}), metrics),
        base_average=base.get("average"),
        rows=tuple(rows),
    )


def _row(place: str, value: object, metrics: Mapping[str, str]) -> PublishedRow:
    row = _checked(place, value, ROW, ROW_OPTIONS)
    if row["accounting"] not in ACCOUNTINGS:
        raise ValueError(f"{place}: accounting={excerpt(row['accounting'])} must be one of {', '.join(ACCOUNTINGS)}")
    if not {"scores", "relative", "average"} & set(row):
        raise ValueError(f"{place} holds no accuracy; give scores, relative or average")
    for name in ("label", "mean_tokens", "relative", "average"):
        if row.get(name, 0) < 0:
            raise ValueError(f"{place}: {name}={row[name]:g} must not be below 0")
    return PublishedRow(**{**row, "scores": _scores(place, row.get("scores", {}), metrics)})


def _scores(place: str, scores: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, float]:
    for benchmark, score in scores.items():
        if benchmark not in metrics:
            raise ValueError(
                f"{place}: scores has {excerpt(benchmark)}, and metrics does not say which figure that is"
                f"{did_you_mean(benchmark, metrics)}"
            )
        if isinstance(score, bool) or not isinstance(score, NUMBER) or score < 0:
            raise ValueError(f"{place}: {benchmark}={excerpt(score)} must be a number of at least 0")
    return {benchmark: float(score) for benchmark, score in scores.items()}


def _metrics_of(place: str, benchmark: str) -> tuple[str, ...]:
    """The names under which a benchmark's score is printed."""
    if benchmark in list_tasks():
        return tuple(get_task(benchmark).printed)
    if benchmark not in OTHER_BENCHMARKS:
        known = [*list_tasks(), *OTHER_BENCHMARKS]
        raise ValueError(
            f"{place}: {excerpt(benchmark)} is no benchmark{did_you_mean(benchmark, known)}; known are {', '.join(known)}"
        )
    return OTHER_METRICS


def _checked(place: str, value: object, required: Kinds, options: Kinds) -> dict[str, Any]:
    """A mapping with all required keys, perhaps some of the options, and nothing else, each of its kind."""
    if not isinstance(value, dict):
        raise ValueError(f"{place} is {excerpt(value)} where a mapping belongs")
    kinds = {**required, **options}
    for key in value:
        if key not in kinds:
            raise ValueError(
                f"{place}: the key {excerpt(key)} is unknown{did_you_mean(key, kinds)}; known are {', '.join(kinds)}"
            )
    missing = [key for key in required if key not in value]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}")
    for key, entry in value.items():
        kind = kinds[key]
        if not isinstance(entry, kind) or isinstance(entry, bool) and kind is not bool:
            raise ValueError(f"{place}: {key}={excerpt(entry)} must be {WORDS[kind]}")
    return value

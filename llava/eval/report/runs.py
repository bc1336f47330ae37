"""Results folders read back: one finished run becomes one row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llava.files import excerpt, read_json
from llava.reduction import did_you_mean
from llava.reduction.plan import plan_name

from ..results.folder import FORMAT, read_config, read_predictions
from ..tasks.base import Line
from ..tasks.statistics import Contributions, containing, score_interval
from .compare import MARGIN, Answers
from .rows import SAME_COST, Named, Row, boards, compared, seeds_together, split_rows

REPAIR = "remove it and give the run's command again"


def collect(
    paths: Iterable[str | Path], margin: float = MARGIN, split_by: str | None = None, against: str | None = None
) -> tuple[list[Row], list[Path]]:
    """All finished runs in and under the folders, most expensive first, and the folders of unfinished runs.

    margin: points within which two runs are called equivalent. split_by: the folder of a finished run, or a method,
    that divides the questions into hard and easy ones (``split_rows``). against: the folder of a finished run, a plan, or
    a method, with which every plan is compared too (``Named``). Raises FileNotFoundError when there is no run at all and
    ValueError naming a file that is not what it should be, and for what splits, or is compared with, no run.
    """
    paths = list(paths)
    rows, unfinished = [], []
    folders = {file.parent for path in paths for file in Path(path).rglob("config.yaml")}
    for folder in sorted(folders):
        if (folder / "metrics.json").is_file() and (folder / "cost.json").is_file():
            rows.append(read_run(folder))
        elif (folder / "predictions.jsonl").is_file():
            unfinished.append(folder)
    if not rows:
        stopped = f"; unfinished: {', '.join(map(str, unfinished))}" if unfinished else ""
        raise FileNotFoundError(
            f"no finished run in {', '.join(map(str, paths))}{stopped}; make one with llava.eval.run"
        )
    rows = seeds_together(rows)
    named = None if against is None else _named(against, rows)
    rows = [row for board in boards(rows).values() for row in compared(board, margin, named)]
    if against is not None and not any(row.vs_named for row in rows):
        names = dict.fromkeys(name for row in rows for name in (row.plan, row.method))
        raise ValueError(
            f"--against {against} is compared with no run; give the folder of a finished run that was asked the same questions,"
            f" a plan, or a method that has a run within {100 * SAME_COST:g} % of another's cost{did_you_mean(against, names)}"
        )
    if split_by is not None:
        control = _run_of(split_by)
        rows = [row for board in boards(rows).values() for row in split_rows(board, split_by, control)]
        if not any(row.split for row in rows):
            raise ValueError(
                f"--split-by {split_by} splits no run; give the folder of a finished run that was asked the same "
                "questions, or a method, such as downsample, that has a run of nearly the cost of the others"
            )
    rows.sort(key=lambda row: (row.task, row.model, -(row.visual_tokens or 0), -row.score))
    return rows, unfinished


def _named(text: str, rows: Sequence[Row]) -> Named:
    """What a reader has named: a folder, a plan in any spelling, or a method as the reports call it."""
    run = _run_of(text)
    if run is None and text not in {name for row in rows for name in (row.plan, row.method)}:
        try:
            return Named(plan_name(text))
        except ValueError:
            return Named(text)
    return Named(text if run is None else run.plan, run)


def _run_of(text: str) -> Row | None:
    """The run in a folder; None where the text is no run's folder."""
    return read_run(Path(text)) if (Path(text) / "config.yaml").is_file() else None


def read_run(folder: Path) -> Row:
    """The row of one run's folder. Raises ValueError that names the file and what to do."""
    config = _config(folder / "config.yaml")
    metrics_file, predictions = folder / "metrics.json", folder / "predictions.jsonl"
    metrics, cost = read_json(metrics_file, hint=REPAIR), read_json(folder / "cost.json", hint=REPAIR)
    try:
        score, accuracy, task = _number(metrics, "score"), _number(metrics, "accuracy"), _text(metrics, "task")
        lines = read_predictions(predictions) if predictions.is_file() else None
        answers = None if lines is None else Answers.from_lines(lines, predictions, task, score, config)
        subtasks, subtask_max = _subtasks(metrics, answers)
        row = Row(
            task=task,
            model=_text(config["model"], "name"),
            template=_text(config, "conv_mode") if config.get("conv_mode") else None,
            plan=_text(metrics, "plan"),
            method=_text(metrics, "method"),
            score=score,
            max_score=_number(metrics, "max_score"),
            score_interval=_interval(metrics, "score", answers and answers.score),
            accuracy=accuracy,
            accuracy_interval=_interval(metrics, "accuracy", answers and answers.accuracy),
            visual_tokens=_cost(cost, "visual_tokens"),
            visual_tokens_range=_visual_range(lines or ()),
            gflops=_cost(cost, "total_flops", 1e9),
            kv_mb=_cost(cost, "kv_bytes", 1e6),
            ms=_cost(cost, "ms_per_question"),
            tower_ms=_cost(cost, "tower_ms_per_picture"),
            prefill_ms=_cost(cost, "prefill_ms"),
            decode_ms=_cost(cost, "decode_ms"),
            questions=int(_number(metrics, "questions")),
            failed=int(_number(metrics, "failed")),
            note=_text(metrics, "note") if "note" in metrics else "",
            subtasks=subtasks,
            subtask_max=subtask_max,
            folders=[str(folder)],
            answers=answers,
        )
    except KeyError as error:
        raise ValueError(f"{folder} has no {error} in its config.yaml or metrics.json; run it again") from None
    except TypeError as error:
        raise ValueError(
            f"{metrics_file}, cost.json or config.yaml holds {error}; remove the folder and run it again"
        ) from None
    if answers is not None:
        _check_agreement(row, answers, metrics_file)
    return row


def _check_agreement(row: Row, answers: Answers, metrics_file: Path) -> None:
    """Raises ValueError where a run's metrics are not those of its answers."""
    accuracy = float(answers.correct.mean())
    if answers.questions != row.questions or not math.isclose(accuracy, row.accuracy, abs_tol=1e-9):
        raise ValueError(
            f"{metrics_file} speaks of {row.questions} questions and accuracy {row.accuracy:.6g}, predictions.jsonl holds "
            f"{answers.questions} and {accuracy:.6g}; remove metrics.json and give the run's command again"
        )


def _subtasks(metrics: dict[str, Any], answers: Answers | None) -> tuple[dict[str, float], float]:
    """Each subtask's score and its largest value, from the metrics where they have them; else accuracies in per cent."""
    subtasks = metrics.get("subtasks")
    if not isinstance(subtasks, dict) or not subtasks or not all(map(_has_score, subtasks.values())):
        return (answers.categories if answers else {}), 100.0
    scores = {name: _number(figures, "score") for name, figures in subtasks.items()}
    is_sum = math.isclose(sum(scores.values()), _number(metrics, "score"), rel_tol=1e-6)  # as MME's is
    return scores, _number(metrics, "max_score") / (len(scores) if is_sum else 1)


def _has_score(figures: object) -> bool:
    return isinstance(figures, dict) and "score" in figures


def _visual_range(lines: Sequence[Line]) -> list[float] | None:
    """Mean visual tokens per layer of the cheapest and the most expensive question; None where all have the same."""
    means = {sum(line["kept"]) / len(line["kept"]) for line in lines if line.get("kept")}
    return [min(means), max(means)] if len(means) > 1 else None


def _interval(metrics: dict[str, Any], name: str, pictures: Sequence[Contributions] | None) -> list[float]:
    """The interval of the answers, so that runs of all versions have the same; the stored one where there are none."""
    if pictures:
        return score_interval(pictures)
    low, high = metrics[f"{name}_interval"]
    return containing(_number(metrics, name), [float(low), float(high)])


def _number(figures: dict[str, Any], name: str) -> float:
    value = figures[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={excerpt(value)}, which is no number")
    return float(value)


def _text(words: Any, name: str) -> str:
    if not isinstance(words, dict) or not isinstance(words[name], str):
        raise TypeError(f"{name}={excerpt(words[name] if isinstance(words, dict) else words)}, which is no text")
    return words[name]


def _cost(cost: dict[str, Any], name: str, unit: float = 1.0) -> float | None:
    return _number(cost, name) / unit if name in cost else None


def _config(file: Path) -> dict[str, Any]:
    """A run's configuration, of the format that this version reads. Raises ValueError naming the file."""
    config = read_config(file)
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{file} is of format {excerpt(config.get('format'))}, this version reads {FORMAT}; run it again"
        )
    return config

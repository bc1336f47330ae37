"""Finished runs read back from their folders: one row a plan, seeds of one plan together, compared with the controls."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import yaml

from ..results.folder import FORMAT
from ..tasks.statistics import Contributions, containing, holm, score_interval
from .compare import Answers, Difference, difference, obstacle

REFERENCES = {"full": "--", "blind": ":"}  # the methods that are no competitors, and how their lines are dashed
SAME_COST = 0.02  # how far the mean visual tokens of a random control may lie from a method's
SEED = re.compile(r"[,_:-]seed=[^,_+]*")


@dataclass(frozen=True)
class Row:
    """One plan's finished run, or several seeds of it: names, scores with 95 % intervals, and mean cost a question.

    Of several ``seeds`` every figure is their mean, ``score_sd`` the standard deviation of their scores. A cost that a run
    does not have is None. ``subtasks`` are scores out of ``subtask_max``. ``uncompared`` says for "full" and "random" why a
    comparison with it was left out. ``answers`` is what comparisons are made of; None where a folder holds no predictions.
    """

    task: str
    model: str
    plan: str
    method: str
    score: float
    max_score: float
    score_interval: list[float]
    accuracy: float
    accuracy_interval: list[float]
    visual_tokens: float | None
    gflops: float | None
    kv_mb: float | None
    ms: float | None
    tower_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None
    questions: int
    failed: int
    note: str
    subtasks: dict[str, float]
    subtask_max: float
    folders: list[str]
    seeds: int = 1
    score_sd: float | None = None
    vs_full: Difference | None = None
    vs_random: Difference | None = None
    uncompared: dict[str, str] = field(default_factory=dict)
    answers: Answers | None = field(default=None, repr=False, compare=False)

    def plain(self) -> dict:
        """Everything that is plain values, nested, for JSON."""
        return asdict(
            replace(self, answers=None), dict_factory=lambda pairs: {k: v for k, v in pairs if k != "answers"}
        )

    @property
    def is_random(self) -> bool:
        """Whether chance alone chooses what this plan keeps."""
        return all(re.match(r"random(\W|$)", stage) for stage in self.method.split("+"))

    @property
    def places(self) -> list[str]:
        """Where the plan's stages stand: layers or sites."""
        return re.findall(r"@([^,+]+)", self.method)

    @property
    def root(self) -> Path:
        """The folder of results that the run is one of."""
        return Path(self.folders[0]).parent


def collect(paths: Iterable[str | Path]) -> tuple[list[Row], list[Path]]:
    """All finished runs in and under the folders, dearest first, and the folders of runs that are not finished.

    Raises FileNotFoundError when there is no run at all and ValueError naming a file that is not what it should be.
    """
    rows, unfinished = [], []
    folders = {file.parent for path in paths for file in Path(path).rglob("config.yaml")}
    for folder in sorted(folders):
        if (folder / "metrics.json").is_file() and (folder / "cost.json").is_file():
            rows.append(_row(folder))
        elif (folder / "predictions.jsonl").is_file():
            unfinished.append(folder)
    if not rows:
        stopped = f"; unfinished: {', '.join(map(str, unfinished))}" if unfinished else ""
        raise FileNotFoundError(
            f"no finished run in {', '.join(map(str, paths))}{stopped}; make one with llava.eval.run"
        )
    rows = [row for board in boards(_together(rows)).values() for row in compared(board)]
    rows.sort(key=lambda row: (row.task, row.model, -(row.visual_tokens or 0), -row.score))
    return rows, unfinished


def boards(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows by task and model: those that stand in one table, one figure, and one comparison."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.task, row.model), []).append(row)
    return found


def compared(rows: Sequence[Row]) -> list[Row]:
    """The rows of one board, each compared with full and with random at its own cost; p corrected for all comparisons."""
    with_full = [_against(row, [other for other in rows if other.method == "full"], "full") for row in rows]
    found = [_against(row, _same_cost(row, rows), "random") for row in with_full]
    made = [
        (number, name) for number, row in enumerate(found) for name in ("vs_full", "vs_random") if getattr(row, name)
    ]
    corrected = holm([getattr(found[number], name).p for number, name in made])
    for (number, name), p in zip(made, corrected):
        found[number] = replace(found[number], **{name: replace(getattr(found[number], name), p_holm=p)})
    return found


def _against(row: Row, others: Sequence[Row], name: str) -> Row:
    """The row compared with the nearest of the others that was asked the same, or with the reason why with none."""
    others = [other for other in others if other.folders != row.folders]
    if row.method == "full" or not others:
        return row
    near = sorted(others, key=lambda other: other.root != row.root)
    reason = ""
    for other in near:
        if row.answers is None or other.answers is None:
            return replace(row, uncompared={**row.uncompared, name: "no predictions.jsonl"})
        found = obstacle(row.answers, other.answers)
        if found is None:
            return replace(row, **{f"vs_{name}": difference(row.answers, other.answers, other.plan)})
        reason = reason or found
    return replace(row, uncompared={**row.uncompared, name: reason})


def _same_cost(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The random controls that see as many visual tokens a layer, those with stages at the same places first."""
    if row.is_random or row.method in REFERENCES or not row.visual_tokens:
        return []
    apart = {
        id(other): abs(other.visual_tokens / row.visual_tokens - 1)
        for other in rows
        if other.is_random and other.visual_tokens is not None
    }
    near = [other for other in rows if apart.get(id(other), math.inf) <= SAME_COST]
    return sorted(near, key=lambda other: (other.places != row.places, apart[id(other)]))


def _together(rows: Sequence[Row]) -> list[Row]:
    """Runs of one plan that differ by their seed alone become one row."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        asked = (row.answers.asked, row.answers.settings) if row.answers else row.folders[0]
        groups.setdefault((row.task, row.model, row.root, SEED.sub("", row.plan), asked), []).append(row)
    return [_mean(group) if len(group) > 1 else group[0] for group in groups.values()]


def _mean(rows: Sequence[Row]) -> Row:
    """The mean of several seeds. A score that is no sum over pictures gets the mean of the intervals' ends."""
    answers = Answers.merged([row.answers for row in rows])
    means = {}
    for name in (one.name for one in fields(Row) if one.type in ("float", "float | None") and one.name != "score_sd"):
        values = [getattr(row, name) for row in rows]
        means[name] = None if None in values else float(np.mean(values))
    ends = np.mean([row.score_interval for row in rows], axis=0).tolist()
    return replace(
        rows[0],
        **means,
        plan=SEED.sub("", rows[0].plan),
        method=SEED.sub("", rows[0].method),
        score_interval=score_interval(answers.score) if answers.score else ends,
        accuracy_interval=score_interval(answers.accuracy),
        failed=max(row.failed for row in rows),
        subtasks={name: float(np.mean([row.subtasks[name] for row in rows])) for name in rows[0].subtasks},
        folders=[folder for row in rows for folder in row.folders],
        seeds=len(rows),
        score_sd=float(np.std([row.score for row in rows], ddof=1)),
        answers=answers,
    )


def _row(folder: Path) -> Row:
    """One run's folder. Raises ValueError that names the file and what to do."""
    config = _config(folder / "config.yaml")
    metrics, cost = read_json(folder / "metrics.json"), read_json(folder / "cost.json")
    predictions = folder / "predictions.jsonl"
    try:
        score, accuracy, task = _number(metrics, "score"), _number(metrics, "accuracy"), metrics["task"]
        answers = Answers.read(predictions, task, score, config) if predictions.is_file() else None
        subtasks, subtask_max = _subtasks(metrics, answers)
        row = Row(
            task=task,
            model=config["model"]["name"],
            plan=metrics["plan"],
            method=metrics["method"],
            score=score,
            max_score=_number(metrics, "max_score"),
            score_interval=_interval(metrics, "score", answers and answers.score),
            accuracy=accuracy,
            accuracy_interval=_interval(metrics, "accuracy", answers and answers.accuracy),
            visual_tokens=_cost(cost, "visual_tokens"),
            gflops=_cost(cost, "total_flops", 1e9),
            kv_mb=_cost(cost, "kv_bytes", 1e6),
            ms=_cost(cost, "ms_per_question"),
            tower_ms=_cost(cost, "tower_ms_per_picture"),
            prefill_ms=_cost(cost, "prefill_ms"),
            decode_ms=_cost(cost, "decode_ms"),
            questions=metrics["questions"],
            failed=metrics["failed"],
            note=metrics.get("note", ""),
            subtasks=subtasks,
            subtask_max=subtask_max,
            folders=[str(folder)],
            answers=answers,
        )
    except KeyError as error:
        raise ValueError(f"{folder} has no {error} in its config.yaml or metrics.json; run it anew") from None
    except TypeError as error:
        raise ValueError(
            f"{folder / 'metrics.json'} or cost.json holds {error}; remove both and give the run's command again"
        ) from None
    if answers is not None:
        held = float(answers.correct.mean())
        if answers.questions != row.questions or not math.isclose(held, accuracy, abs_tol=1e-9):
            raise ValueError(
                f"{folder / 'metrics.json'} speaks of {row.questions} questions and accuracy {accuracy:.6g}, "
                f"{predictions.name} holds {answers.questions} and {held:.6g}; remove metrics.json and give the run's "
                "command again"
            )
    return row


def _subtasks(metrics: dict, answers: Answers | None) -> tuple[dict[str, float], float]:
    """Each subtask's score and what it is out of, from the metrics where they have them; else accuracies in per cent."""
    held = metrics.get("subtasks")
    if isinstance(held, dict) and held and all(isinstance(one, dict) and "score" in one for one in held.values()):
        scores = {name: _number(one, "score") for name, one in held.items()}
        added = math.isclose(sum(scores.values()), metrics["score"], rel_tol=1e-6)  # as MME's are
        return scores, metrics["max_score"] / (len(scores) if added else 1)
    return (answers.categories if answers else {}), 100.0


def _interval(metrics: dict, name: str, pictures: Sequence[Contributions] | None) -> list[float]:
    """That of the answers, where the score is made of theirs, so that runs of all versions have the same; else the stored one."""
    if pictures:
        return score_interval(pictures)
    low, high = metrics[f"{name}_interval"]
    return containing(_number(metrics, name), [float(low), float(high)])


def _number(held: dict, name: str) -> float:
    value = held[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}, which is no number")
    return float(value)


def _cost(cost: dict, name: str, unit: float = 1.0) -> float | None:
    return _number(cost, name) / unit if name in cost else None


def _config(file: Path) -> dict:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise ValueError(f"{file}:{line} is not YAML; remove the folder and run it anew") from None
    held = config.get("format") if isinstance(config, dict) else None
    if held != FORMAT:
        raise ValueError(f"{file} is of format {held}, this version reads {FORMAT}; run it anew")
    return config


def read_json(file: Path) -> dict:
    """The object of a JSON file. Raises ValueError naming file and line for anything else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", 1)
        raise ValueError(f"{file}:{line} is not JSON: {error}; remove it and give the run's command again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}:1 holds no object; remove it and give the run's command again")
    return found

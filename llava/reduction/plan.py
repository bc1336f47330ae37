"""The plan language: parse, spell, order, check, price.

A plan is a list of stages. It can be written as a short string, ``"fastv@2:64"`` (method, layer, how many to keep; options
after commas, stages joined by ``+``), as YAML (``reduction: [{method: fastv, layer: 2, keep: 64}]``), as a list of strings
and dicts, or as the config's knobs (``use_fast_v=True, ...``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from .checks import shown
from .evidence import Site
from .plan_file import read_plan_file
from .registry import get_method, make_stage
from .spelling import cut, read_value
from .stage import BATCHED_SITES, CROP_SITES, Place, Stage

Spec = str | Path | dict | Stage | Iterable[str | dict | Stage] | None

LONGEST = 20_000  # characters of a short spelling
LONGEST_NAME = 150  # characters of a plan's name
SITES: tuple[Site, ...] = get_args(Site)


# ---------------------------------------------------------------------------------------------------------------- parse


def plan_from(spec: Spec, keep: int | float | None = None) -> list[Stage]:
    """Translate any spelling of a plan into stages; None, "" and [] are the empty plan.

    A string is the short spelling, or the path of a YAML file when it ends in ``.yaml`` or ``.yml``. ``keep``: the budget
    of those stages of a short spelling that name none and need one. Raises ValueError for something that is not a plan,
    naming the part, and FileNotFoundError for a file that is not there.
    """
    if isinstance(spec, Path) or isinstance(spec, str) and spec.endswith((".yaml", ".yml")):
        content = read_plan_file(Path(spec))["reduction"]
        if isinstance(content, str) and content.endswith((".yaml", ".yml")):
            raise ValueError(f"{spec}: reduction={shown(content)}: a plan file cannot name another; write the stages")
        return plan_from(content)
    return _ordered(_stages(spec, keep))


def budgets_from(file: Path) -> dict[str, list[Stage]]:
    """The plans that a plan file gives by a paper's labels, such as 192, 128 and 64; none where it gives none."""
    budgets = read_plan_file(file).get("budgets", {})
    if not isinstance(budgets, dict):
        raise ValueError(f"{file}: budgets={shown(budgets)} must be plans by their labels, like {{'64': fastv@2:64}}")
    return {label: plan_from(plan) for label, plan in budgets.items()}


def _stages(spec: Spec, keep: int | float | None = None) -> list[Stage]:
    if spec is None or spec == "":
        return []
    if isinstance(spec, str):
        return _from_string(spec, keep)
    if isinstance(spec, Stage):
        return [spec]
    if isinstance(spec, dict):
        return [_from_dict(spec)]
    if isinstance(spec, Sequence | Iterator):
        return [stage for part in spec for stage in _stages(_not_nested(part), keep)]
    raise ValueError(
        f"cannot read {shown(spec)} as a plan; write fastv@2:64, a list of stages, or the path of a YAML file"
    )


def _not_nested(part: object) -> str | dict | Stage:
    if not isinstance(part, str | dict | Stage) or part == "":
        raise ValueError(
            f"a stage must be written like fastv@2:64, or as a mapping with the key 'method', like"
            f" {{method: fastv, layer: 2, keep: 64}}; got {shown(part)}"
        )
    return part


def _from_string(text: str, keep: int | float | None) -> list[Stage]:
    if len(text) > LONGEST:
        raise ValueError(f"a plan of {len(text)} characters is too long: {shown(text)}; the limit is {LONGEST}")
    stages: list[Stage] = []
    for part in cut(text, "+"):
        values = _parse(part)
        try:
            wants_keep = get_method(values["method"]).wants_keep
        except ValueError as error:
            if stages and stages[-1].reducer.weights is not None:
                raise ValueError(f'{error}; a path with a + is written in quotes: weights="a+b"') from None
            raise
        stages.append(make_stage(**({"keep": keep, **values} if wants_keep else values)))
    return stages


def _parse(text: str) -> dict:
    """``name[@layer or site][:keep][,option=value...]`` as keyword arguments."""
    head, *rest = cut(text, ":")
    match = re.fullmatch(r"(?P<method>[^@,\s\"]+)(?:@(?P<where>[^@,\s\"]+))?", head.strip())
    if not match:
        raise ValueError(f"cannot read the plan {shown(text)}; write method@layer:keep, for example fastv@2:64")
    values: dict[str, object] = {"method": match["method"]}
    if (where := match["where"]) is not None:
        values["layer" if re.fullmatch(r"-?[0-9]+", where) else "site"] = read_value(where)
    for number, part in enumerate(cut(":".join(rest), ",") if "".join(rest).strip() else []):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals and number:
            raise ValueError(f"cannot read {shown(part)} in the plan {shown(text)}; options are written name=value")
        if not equals:
            key, value = "keep", part.strip()
        if key in values or key in ("site", "layer") and where is not None:
            raise ValueError(f"{key} is given twice in the plan {shown(text)}; write it once")
        if equals and not value:
            raise ValueError(f"{key} has no value in the plan {shown(text)}; options are written name=value")
        values[key] = _budget(value, text) if key == "keep" else read_value(value)
    return values


def _budget(text: str, plan: str) -> int | float:
    share = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)%", text)
    value = float(share[1]) / 100 if share else read_value(text)
    if isinstance(value, str | bool):
        raise ValueError(
            f"cannot read {shown(text)} in the plan {shown(plan)} as how many to keep; write 64, 0.25 or 25%"
        )
    return value


def _from_dict(part: dict) -> Stage:
    if "method" not in part:
        raise ValueError(
            f"a stage must be a mapping with the key 'method', like {{method: fastv, layer: 2, keep: 64}}; got {shown(part)}"
        )
    for key in part:
        if not isinstance(key, str):
            raise ValueError(f"{shown(key)} in the stage {shown(part)} is no option; options are words")
    return make_stage(**part)


# ---------------------------------------------------------------------------------------------------------------- spell


def plan_name(spec: Spec) -> str:
    """A short name of a plan that can be a file name: ``fastv@2-64``; the empty plan is ``full``.

    A path (``weights=``) is shortened to its last part. Where that, or anything else, loses what tells two plans apart, a
    checksum of the whole plan follows.
    """
    plan = plan_from(spec)
    spelled = "+".join(map(str, plan))
    short = with_short_paths(spelled)
    name = re.sub(r"[^\w@.=+%-]+", "_", short.replace(":", "-"), flags=re.ASCII).strip("_")[:LONGEST_NAME]
    texts = [value for stage in plan for value in stage.reducer.options().values() if isinstance(value, str)]
    if len(short) > LONGEST_NAME or not all(re.fullmatch(r"[\w.-]+", text, re.ASCII) for text in texts):
        name += "-" + hashlib.sha256(spelled.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return name or "full"


def with_short_paths(spelled: str) -> str:
    """A spelled plan or method whose paths (``weights=``) are their last parts."""
    return re.sub(r'weights=("?)[^,+"]*/', r"weights=\1", spelled)


# ------------------------------------------------------------------------------------------------------- order and check


def _ordered(plan: list[Stage]) -> list[Stage]:
    """Refuse stages that are not in the order in which the tokens meet them, or that keep more than is left.

    A plan with a schedule is checked when it is spelled out.
    """
    if any(stage.site == "schedule" for stage in plan):
        return plan
    order = [(SITES.index(stage.site), stage.layer or 0) for stage in plan]
    for stage, place, following in zip(plan[1:], order, order[1:]):
        if following <= place:
            raise ValueError(
                f"the stages {shown(' + '.join(map(str, plan)))} are out of order at {stage}; write pixels, tower, features,"
                " projected, prompt, then layers from low to high, one stage a layer"
            )
    left: tuple[int, Stage] | None = None  # the stage that leaves a known number of tokens of every image
    for stage in plan:
        if isinstance(stage.keep, int) and stage.place is not Place.ZERO_FILL and stage.per == "image":
            if left is not None and stage.keep > left[0] and not stage.reducer.keeps_all_beyond:
                raise ValueError(
                    f"keep={stage.keep} of {stage} exceeds the {left[0]} tokens that {left[1]} leaves;"
                    " what is gone stays gone: keep no more than the stage before"
                )
            left = stage.keep, stage
    return plan


def spelled_out(plan: list[Stage], layers: int) -> list[Stage]:
    """A plan whose schedules are written out, stage by stage, for a decoder of ``layers`` layers.

    Placement and positions of a schedule become those of its stages in the decoder. Raises ValueError where the decoder is
    too shallow for a schedule, and where its stages do not fit among the others.
    """
    stages: list[Stage] = []
    for stage in plan:
        if stage.site != "schedule":
            stages.append(stage)
            continue
        for part in stage.reducer.schedule(stage.keep, layers):
            inside = part.site == "layer"
            stages.append(replace(part, place=stage.place, positions=stage.positions) if inside else part)
    return _ordered(stages)


def check_plan(plan: list[Stage], layers: int, sites: tuple[Site, ...] = SITES) -> None:
    """Refuse a plan that a model with these sites and a decoder of ``layers`` layers cannot run."""
    for stage in spelled_out(plan, layers):
        if stage.site not in sites and stage.name != "full":
            raise ValueError(
                f"site={stage.site!r} of {stage} is before the decoder, but this model is a decoder alone;"
                f" write {stage.name}@2 for its layer 2, or load a LLaVA model"
            )
        if stage.layer is not None and stage.layer >= layers:
            raise ValueError(
                f"layer={stage.layer} of {stage} is out of range; this model has layers 1..{layers - 1} to reduce at"
            )


# ---------------------------------------------------------------------------------------------------------------- price


def tokens_left(plan: list[Stage], tokens: int, layers: int, crops: int = 1) -> list[int]:
    """Visual tokens in each of ``layers`` decoder layers when a picture meets a plan, before anything runs.

    The picture has ``tokens`` in all, on ``crops`` equal crops. Where the pictures decide how many are kept, it is the
    maximum. Raises ValueError for a budget above what arrives.
    """
    entering, left = [], tokens
    stages = spelled_out(plan, layers)
    for layer in range(layers):
        for stage in stages:
            if (stage.layer or 0) == layer and stage.place is Place.DROP:
                left = _left(stage, left, crops)
        entering.append(left)
    return entering


def _left(stage: Stage, tokens: int, crops: int) -> int:
    """Tokens of a picture after a stage."""
    if stage.site not in (*BATCHED_SITES, *CROP_SITES):
        return stage.reducer.left(tokens, stage.budget(tokens))
    return sum(stage.reducer.left(length, share) for length, share in crop_budgets(stage, tokens, crops))


def crop_budgets(stage: Stage, tokens: int, crops: int) -> list[tuple[int, int | None]]:
    """The tokens and the budget of each of ``crops`` equal crops of a picture at a stage before the language model."""
    each = [tokens // crops + (crop < tokens % crops) for crop in range(crops)]
    return list(zip(each, stage.shares(each)))

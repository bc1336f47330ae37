"""Names of methods, and the one translator from every spelling of a plan to stages.

A plan is a list of stages. It can be written as a short string, ``"fastv@2:64"`` (method, layer, how many to keep;
options after commas, stages joined by ``+``), as YAML (``reduction: [{method: fastv, layer: 2, keep: 64}]``), as a list
of dicts, or as the config's knobs (``use_fast_v=True, ...``).
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import yaml

from .stage import Place, Reducer, Site, Stage

Spec = str | Path | dict | Iterable[dict | Stage] | None

_METHODS: dict[str, type[Reducer]] = {}
_DOC_FIELDS = ("Paper:", "Site:", "Needs:", "Training:", "Cost:", "Differs from the authors' code:")
_STAGE_KEYS = ("method", "site", "layer", "keep", "place", "positions")


def register(name: str) -> Callable[[type[Reducer]], type[Reducer]]:
    """Enter a reducer class under a name: lower case, unique, with the documented fields in its docstring."""

    def enter(method: type[Reducer]) -> type[Reducer]:
        if name in _METHODS:
            raise ValueError(f"method {name!r} is registered twice, by {_METHODS[name].__name__} and {method.__name__}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"method name {name!r} must be lower case letters, digits and underscores")
        lacking = [part for part in _DOC_FIELDS if part not in (method.__doc__ or "")]
        if lacking:
            raise ValueError(f"the docstring of {method.__name__} lacks {', '.join(lacking)}")
        method.name = name
        _METHODS[name] = method
        return method

    return enter


def list_methods() -> list[str]:
    """All method names, sorted."""
    return sorted(_METHODS)


def get_method(name: str) -> type[Reducer]:
    """The class of a method; ValueError with the nearest names when there is none."""
    if name not in _METHODS:
        raise ValueError(
            f"method {name!r} is unknown{did_you_mean(name, _METHODS)}; choose one of {', '.join(list_methods())}"
        )
    return _METHODS[name]


def method_table() -> str:
    """The methods as a Markdown table, read from their docstrings: what they do, where, what they need, who says so."""
    rows = ["| method | what it keeps | site | needs | training | source |", "|---|---|---|---|---|---|"]
    for name in list_methods():
        document = inspect.getdoc(_METHODS[name])
        said = re.search(r"Paper: (.+?)\s{2,}Site: (.+?)\s{2,}Needs: (.+?)\s{2,}Training: (.+)", document)
        paper, site, needs, training = said.groups()
        source = re.sub(r"https://arxiv.org/abs/(\S+)", r"[\1](https://arxiv.org/abs/\1)", paper)
        rows.append(f"| `{name}` | {document.splitlines()[0].rstrip('.')} | {site} | {needs} | {training} | {source} |")
    return "\n".join(rows)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a mistyped word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def make_stage(
    method: str,
    site: Site | None = None,
    layer: int | None = None,
    keep: int | float | None = None,
    place: str = "drop",
    positions: str = "original",
    **options: object,
) -> Stage:
    """One stage from plain values; ``options`` go to the method's constructor, an unknown one raises."""
    kind = get_method(method)
    if site is None:
        site = "layer" if layer is not None else kind.sites[0]
    if site == "layer" and layer is None:
        layer = kind.default_layer
    allowed = list(inspect.signature(kind.__init__).parameters)[1:]
    for option in options:
        if option not in allowed:
            known = [*allowed, *_STAGE_KEYS[1:]]
            raise ValueError(
                f"option {option!r} of {method} is unknown{did_you_mean(option, known)}; it takes {', '.join(known)}"
            )
    return Stage(kind(**options), site, layer, keep, place, positions)


def plan_from(spec: Spec, keep: int | float | None = None) -> list[Stage]:
    """Translate any spelling of a plan into stages; None, "" and [] are the empty plan.

    A string is the short spelling, or the path of a YAML file when it ends in ``.yaml`` or ``.yml``. ``keep``: the budget
    of those stages of a short spelling that name none and need one.
    """
    if spec is None or spec == "":
        return []
    if isinstance(spec, Path) or (isinstance(spec, str) and spec.endswith((".yaml", ".yml"))):
        return _from_yaml(Path(spec))
    if isinstance(spec, str):
        parts = [_parse(part) for part in spec.split("+")]
        return _ordered([make_stage(**_with_keep(part, keep)) for part in parts])
    if isinstance(spec, dict):
        spec = [spec]
    return _ordered([part if isinstance(part, Stage) else _from_dict(part) for part in spec])


def plan_name(spec: Spec) -> str:
    """A short name of a plan that can be a file name: ``fastv@2-64``; the empty plan is ``full``.

    Of a path (``weights=``) it has the last part.
    """
    spelled = "+".join(map(str, plan_from(spec)))
    return re.sub(r"=[^,+]*/", "=", spelled).replace(":", "-").replace(",", "_") or "full"


def check_plan(plan: list[Stage], layers: int, sites: tuple[Site, ...] = get_args(Site)) -> None:
    """Refuse a plan that a model with these sites and a decoder of ``layers`` layers cannot run."""
    for stage in plan:
        if stage.site not in sites and stage.name != "full":
            raise ValueError(
                f"site={stage.site!r} of {stage} is before the decoder, but this model is a decoder alone;"
                f" write {stage.name}@2 for its layer 2, or load a LLaVA model"
            )
        if stage.layer is not None and stage.layer >= layers:
            raise ValueError(
                f"layer={stage.layer} of {stage} is out of range; this model has layers 1..{layers - 1} to reduce at"
            )


def _ordered(plan: list[Stage]) -> list[Stage]:
    """Stages must be written in the order in which the tokens meet them."""
    order = [(get_args(Site).index(stage.site), stage.layer or 0) for stage in plan]
    for earlier, later, stage in zip(order, order[1:], plan[1:]):
        if later < earlier or (later == earlier and stage.site == "layer"):
            raise ValueError(
                f"the stages {' + '.join(map(str, plan))} are out of order at {stage}; write pixels, features, prompt, then layers"
                " from low to high, one stage a layer"
            )
    left = None  # the count that an earlier stage leaves of every image
    for stage in plan:
        if isinstance(stage.keep, int) and stage.place is not Place.ZERO_FILL:
            if left is not None and stage.keep > left.keep and not stage.reducer.keeps_all_beyond:
                raise ValueError(
                    f"keep={stage.keep} of {stage} exceeds the {left.keep} tokens that {left} leaves;"
                    " what is gone stays gone: keep no more than the stage before"
                )
            left = stage
    return plan


def _parse(text: str) -> dict:
    """``name[@layer or site][:keep][,option=value...]`` as keyword arguments."""
    match = re.fullmatch(r"\s*(?P<method>[^@:,\s]+)(?:@(?P<where>[^:,\s]+))?(?::(?P<rest>.*))?\s*", text)
    if not match:
        raise ValueError(f"cannot read the plan {text!r}; write method@layer:keep, for example fastv@2:64")
    found: dict[str, object] = {"method": match["method"]}
    if (where := match["where"]) is not None:
        found["layer" if re.fullmatch(r"-?\d+", where) else "site"] = _value(where)
    for number, part in enumerate(filter(None, (match["rest"] or "").split(","))):
        key, equals, value = part.partition("=")
        if equals:
            found[key.strip()] = _value(value.strip())
        elif number == 0:
            found["keep"] = _budget(part.strip(), text)
        else:
            raise ValueError(f"cannot read {part!r} in the plan {text!r}; options are written name=value")
    return found


def _with_keep(part: dict, keep: int | float | None) -> dict:
    return {"keep": keep, **part} if get_method(part["method"]).wants_keep else part


def _budget(text: str, plan: str) -> int | float:
    value = float(text[:-1]) / 100 if re.fullmatch(r"[\d.]+%", text) else _value(text)
    if not isinstance(value, int | float):
        raise ValueError(f"cannot read {text!r} in the plan {plan!r} as how many to keep; write 64, 0.25 or 25%")
    return value


def _value(text: str) -> int | float | bool | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _from_dict(part: dict) -> Stage:
    if not isinstance(part, dict) or "method" not in part:
        raise ValueError(
            f"a stage must be a mapping with the key 'method', like {{method: fastv, layer: 2, keep: 64}}; got {part!r}"
        )
    return make_stage(**part)


def _from_yaml(file: Path) -> list[Stage]:
    if not file.is_file():
        raise FileNotFoundError(f"no plan file {file}")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict) or set(content) != {"reduction"}:
        raise ValueError(f"{file} must hold one key, 'reduction', with a list of stages")
    return plan_from(content["reduction"])

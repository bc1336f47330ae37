"""The methods by name: register, get, list, and the table of the README.

Another package's methods are found through the entry-point group ``llava.methods``: each entry names a module, which
registers its methods when it is imported. That happens once, when a name is first looked up. ``load_plugin`` takes a
module or a file by name.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TypeVar

from .checks import did_you_mean, shown
from .evidence import SITE_GIVES
from .stage import Place, Reducer, Stage, Where

__all__ = [
    "ENTRY_POINTS",
    "STAGE_KEYS",
    "did_you_mean",
    "get_method",
    "list_methods",
    "load_plugin",
    "make_stage",
    "method_names",
    "method_page",
    "register",
]

logger = logging.getLogger(__name__)

Method = TypeVar("Method", bound=type[Reducer])

ENTRY_POINTS = "llava.methods"
STAGE_KEYS = ("method", "site", "layer", "keep", "place", "positions", "per")

# The folders of ``methods``, as headings
GROUPS = {
    "vision": "before the language model",
    "decoder": "in the language model",
    "anywhere": "anywhere",
    "controls": "controls",
}

_METHODS: dict[str, type[Reducer]] = {}
_DOC_FIELDS = ("Paper:", "Site:", "Needs:", "Training:", "Cost:", "Differs from the authors' code:")


def register(name: str) -> Callable[[Method], Method]:
    """Enter a reducer class under a name: lower case, unique, with the documented fields in its docstring."""

    def enter(method: Method) -> Method:
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


def method_names() -> list[str]:
    """All method names, sorted."""
    _load_entry_points()
    return sorted(_METHODS)


def list_methods() -> dict[str, list[str]]:
    """All method names by where they choose: before the language model, inside it, anywhere, and the controls."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS.values()}
    for name in method_names():
        groups.setdefault(group_of(_METHODS[name]), []).append(name)
    return {group: names for group, names in groups.items() if names}


def group_of(method: type[Reducer]) -> str:
    """Where a method chooses: one of the headings of ``list_methods``."""
    home = method.__module__.removeprefix(f"{__package__}.methods.").partition(".")[0]
    return GROUPS.get(home, "other packages")


def get_method(name: str) -> type[Reducer]:
    """The class of a method; ValueError with the nearest names when there is none."""
    if not isinstance(name, str):
        raise ValueError(f"method={shown(name)} must be a name; choose one of {', '.join(method_names())}")
    if name not in _METHODS:
        _load_entry_points()
    if name not in _METHODS:
        raise ValueError(
            f"method {shown(name)} is unknown{did_you_mean(name, _METHODS)}; choose one of {', '.join(method_names())}"
        )
    return _METHODS[name]


@cache
def _load_entry_points() -> None:
    """Import the modules that other packages name; one that cannot be imported is named in a warning and left out."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except (ImportError, AttributeError, ValueError) as error:
            logger.warning("the methods of %s (%s) are left out: %s", point.name, point.value, error)


def load_plugin(plugin: str) -> None:
    """Import a module, or a Python file, that registers methods of its own; one imported before is not imported again.

    Raises ValueError for one that cannot be imported, with the reason.
    """
    try:
        if not plugin.endswith(".py"):
            import_module(plugin)
            return
        name = "llava_plugin_" + re.sub(r"\W", "_", str(Path(plugin).resolve().with_suffix("")))
        if name in sys.modules:
            return
        spec = spec_from_file_location(name, plugin)
        if spec is None or spec.loader is None:
            raise ImportError(f"{plugin} is no Python file")
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError, SyntaxError) as error:
        raise ValueError(
            f"plugin {shown(plugin)} cannot be imported: {error}; give a module or a file of Python"
        ) from None


def method_page() -> str:
    """The Markdown page of all methods, from their docstrings: what they keep, where, what they need, their source."""
    parts = [
        "# Methods",
        "Written by `python -m llava.reduction methods` from the methods themselves. A plan is `name@layer:budget,option=value`; stages"
        " are joined by `+`. What a budget counts differs between papers, so it stands beside each.",
    ]
    for group, names in list_methods().items():
        rows = [
            "| method | what it keeps | site | needs | training | its budget counts | source |",
            "|---|---|---|---|---|---|---|",
            *map(_table_row, names),
        ]
        parts += [f"## {group[0].upper()}{group[1:]}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _table_row(name: str) -> str:
    document = inspect.getdoc(_METHODS[name]) or ""
    fields = re.search(r"Paper: (.+?)\s{2,}Site: (.+?)\s{2,}Needs: (.+?)\s{2,}Training: (.+)", document)
    if fields is None:
        raise ValueError(f"the docstring of {name} needs Paper, Site, Needs and Training on one line")
    paper, site, needs, training = fields.groups()
    source = re.sub(r"https://(?:arxiv.org/abs|github.com)/(\S+)", r"[\1](\g<0>)", paper)
    return f"| `{name}` | {summary_of(_METHODS[name])} | {site} | {needs} | {training} | {accounting_of(_METHODS[name])} | {source} |"


def _usual_site(reducer: Reducer) -> Where:
    fitting: list[Where] = [site for site in reducer.sites if reducer.needs_at(site) <= SITE_GIVES[site]]
    return fitting[0] if fitting else reducer.sites[0]


def summary_of(method: type[Reducer]) -> str:
    """What a method keeps: the first line of its docstring, without a period."""
    return (inspect.getdoc(method) or "").partition("\n")[0].rstrip(".")


def options_of(method: type[Reducer]) -> list[inspect.Parameter]:
    """The options that a method's constructor takes."""
    return list(inspect.signature(method.__init__).parameters.values())[1:]


def accounting_of(method: type[Reducer]) -> str:
    """What a method's budget counts, from its docstring; where that says nothing, the tokens that stay at the stage."""
    said = re.findall(r"Accounting: (.+?)\.(?:\s|$)", method.__doc__ or "", re.DOTALL)
    return " ".join(said[0].split()) if said else "tokens that stay at the stage"


def make_stage(
    method: str,
    site: Where | None = None,
    layer: int | None = None,
    keep: int | float | None = None,
    place: str = Place.DROP,
    positions: str | None = None,
    per: str | None = None,
    **options: object,
) -> Stage:
    """One stage from plain values; ``options`` go to the method's constructor, an unknown one raises.

    ``site`` is the decoder where a ``layer`` is given, else the method's schedule, or the first of its sites that has what it
    needs. The other arguments are ``Stage``'s.
    """
    kind = get_method(method)
    allowed = [option.name for option in options_of(kind)]
    for option in options:
        if option not in allowed:
            known = [*allowed, *STAGE_KEYS[1:]]
            raise ValueError(
                f"option {shown(option)} of {method} is unknown{did_you_mean(option, known)}; it takes {', '.join(known)}"
            )
    reducer = kind(**options)
    if site is None:
        site = "layer" if layer is not None else "schedule" if kind.scheduled else _usual_site(reducer)
    if site == "layer" and layer is None:
        layer = kind.default_layer
    if positions is None:
        positions = kind.default_positions
    # The words are checked there.
    return Stage(reducer, site, layer, keep, place, positions, per)  # pyright: ignore[reportArgumentType]

"""The page itself: the template filled with every board, and the policy that lets no other code run.

Style, script, data and pictures are in the file; it opens from disk and needs no network. Its content security
policy enforces that, and names style and script by their hashes, so that markup from a results folder could not run even
where it was not escaped. The template, the style and the script lie in this folder.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llava.files import read_json, write_text

from ..curve import COLOURS
from ..notes import notes
from ..relative import relatives
from ..rows import Row, boards
from ..table import columns, relative_columns, templates
from .chart import Chart, make_chart, methods_of
from .gallery import gallery
from .heat import SHARES, heat_maps
from .plot import AXES

HERE = Path(__file__).parent
SIZES = {
    "wide": (1080, 460),
    "narrow": (358, 400),
}  # sizes of a chart for screens and for phones, so that its text is readable
MARKERS = 8  # as many as the template has


def write_page(rows: Sequence[Row], unfinished: Sequence[Path], file: str | Path) -> Path:
    """Write the page of these rows; returns the file.

    A run without stored samples has its answers shown without patches. Raises ValueError naming a samples file that is not
    what it should be.
    """
    style, script = page_style(), (HERE / "report.js").read_text(encoding="utf-8")
    text = (
        templates_in(HERE)
        .get_template("report.html")
        .render(
            title=" and ".join(f"{model} on {task.upper()}" for task, model in boards(rows)),
            boards=[_board(number, *names, board) for number, (names, board) in enumerate(boards(rows).items())],
            means=relative_columns(means) if (means := relatives(rows)) else [],
            notes=notes(rows, unfinished),
            machines=machines(rows),
            colours=COLOURS,
            markers=MARKERS,
            **self_contained(style, script),
        )
    )
    write_text(file, text)
    return Path(file)


def templates_in(*folders: Path) -> Environment:
    """The templates of folders, with escaped output and the filters ``breakable`` and ``unbroken``."""
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(breakable=_breakable, unbroken=_unbroken)
    return environment


def self_contained(style: str, script: str) -> dict[str, Markup]:
    """A page's ``style`` and ``script``, and the ``policy`` that allows only these, and pictures inside the page."""
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    return {"policy": Markup(policy), "style": Markup(style), "script": Markup(script)}


def _board(number: int, task: str, model: str, rows: Sequence[Row]) -> dict[str, Any]:
    """One task and model as the template wants it."""
    return {
        "id": f"board-{number}",
        "task": task,
        "model": model,
        "template": templates(rows),
        "rows": rows,
        "questions": max(row.questions for row in rows),
        "columns": columns(rows),
        "methods": methods_of(rows),
        "charts": _charts(rows),
        "heat": heat_maps(rows),
        "samples": gallery(rows),
    }


def _charts(rows: Sequence[Row]) -> dict[str, list[Chart]]:
    """The charts of every axis that has figures, one for each size."""
    charts = {}
    for axis in AXES:
        drawn = [make_chart(rows, axis, size, *extent) for size, extent in SIZES.items()]
        sizes = [chart for chart in drawn if chart is not None]
        if len(sizes) == len(SIZES):
            charts[axis.name] = sizes
    return charts


def page_style() -> str:
    """The style with a class for every colour and share of a heat map, since the policy allows no style attribute."""
    numbers = range(len(COLOURS))
    light = " ".join(f"--hue-{n}: {COLOURS[n]}; --series-{n}: var(--hue-{n});" for n in numbers)
    dark = " ".join(f"--series-{n}: color-mix(in oklab, var(--hue-{n}) 62%, white);" for n in numbers)
    rules = [
        f":root {{ {light} }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}",
        *(f".colour-{n} {{ --c: var(--series-{n}); }}" for n in numbers),
        *(f".share-{n} {{ --share: {n / SHARES:g}; }}" for n in range(SHARES + 1)),
    ]
    return "\n".join(rules) + "\n" + (HERE / "report.css").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of a content security policy: the element that holds exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def machines(rows: Sequence[Row]) -> list[str]:
    """What the runs were measured on, each machine once."""
    about_all: dict[str, None] = {}
    for file in (Path(folder) / "environment.json" for row in rows for folder in row.folders):
        if file.is_file():
            about = read_json(file, hint="remove it")
            versions = about.get("versions")
            packages = versions.items() if isinstance(versions, dict) else ()
            installed = ", ".join(f"{name} {version}" for name, version in packages if version)
            processor = about.get("gpu") or f"{about.get('processor')}, {about.get('threads')} threads"
            commit = f"; commit {str(about['commit'])[:12]}" if about.get("commit") else ""
            about_all[f"{processor}; Python {about.get('python')}, {installed}{commit}"] = None
    return list(about_all)


def _breakable(text: str) -> Markup:
    """Text that may be broken after the signs that join the parts of plans and subtasks."""
    return Markup("").join(
        Markup("{}<wbr>").format(letter) if letter in "_+@-,=" else Markup.escape(letter) for letter in text
    )


def _unbroken(head: str) -> str:
    """A heading whose units stay with their numbers."""
    return head.replace(" / ", "\u00a0/\u00a0").replace(" %", "\u00a0%")

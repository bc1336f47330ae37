"""One self-contained HTML page of results: leaderboard, score against cost, subtasks, and samples with what was kept.

Style, script, data and pictures are in the file; it opens from disk and asks no network for anything, which its content
security policy enforces. The template, the style and the script lie beside this file.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llava.eval.results import samples
from llava.eval.results.folder import read_predictions

from ..curve import COLOURS
from ..rows import Row, boards, read_json
from ..table import columns, notes
from .chart import AXES, Chart, make_chart, methods_of

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
SIZES = {
    "wide": (1080, 460),
    "narrow": (358, 400),
}  # of a chart, for screens and for phones, so that its text is readable
SHAPES = 8  # how many markers the template has
LONGEST = 300  # letters of an answer that are shown


def write_page(rows: Sequence[Row], unfinished: Sequence[Path], file: str | Path) -> Path:
    """Write the page of these rows; returns the file.

    A run without stored samples has its answers shown without patches. Raises ValueError naming a samples file that is not
    what it should be.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(breakable=_breakable, unbroken=_unbroken)
    text = environment.get_template("report.html").render(
        title=" and ".join(f"{model} on {task.upper()}" for task, model in boards(rows)),
        boards=[_board(number, *names, board) for number, (names, board) in enumerate(boards(rows).items())],
        notes=notes(rows, unfinished),
        machines=_machines(rows),
        colours=COLOURS,
        shapes=SHAPES,
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
    )
    Path(file).write_text(text, encoding="utf-8")
    return Path(file)


def _board(number: int, task: str, model: str, rows: Sequence[Row]) -> dict[str, Any]:
    """One task and model as the template wants it."""
    return {
        "id": f"board-{number}",
        "task": task,
        "model": model,
        "rows": rows,
        "questions": max(row.questions for row in rows),
        "columns": columns(rows),
        "methods": methods_of(rows),
        "charts": _charts(rows),
        "heat": _heat(rows),
        "samples": _samples(rows),
    }


def _charts(rows: Sequence[Row]) -> dict[str, list[Chart]]:
    """The charts of every axis that has figures, one a size."""
    found = {}
    for axis in AXES:
        sizes = [make_chart(rows, axis, size, *extent) for size, extent in SIZES.items()]
        if None not in sizes:
            found[axis.name] = sizes
    return found


def _heat(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The subtasks' maps: every plan's scores, and where there is a full run the differences from it.

    Each has a name, a caption, and lines of (plan, cells); a cell is (text, share of the deepest colour, sign), None where
    that plan lacks the subtask.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.subtasks))
    if len(names) < 2:
        return []
    held = [score for row in rows for score in row.subtasks.values()]
    low, high = min(held), max(held)

    def absolute(row: Row, name: str) -> tuple[str, float, str] | None:
        score = row.subtasks.get(name)
        return None if score is None else (f"{score:.0f}", (score - low) / ((high - low) or 1), "")

    caption = f"out of {rows[0].subtask_max:g}; from {low:.0f}, palest, to {high:.0f}, deepest"
    maps = [_map("score", caption, names, rows, absolute)]
    full = next((row for row in rows if row.method == "full"), None)
    if full is None or len(rows) < 2:
        return maps
    apart = [row.subtasks[name] - full.subtasks[name] for row in rows for name in row.subtasks if name in full.subtasks]
    most = max(map(abs, apart)) or 1

    def relative(row: Row, name: str) -> tuple[str, float, str] | None:
        if name not in row.subtasks or name not in full.subtasks:
            return None
        gain = row.subtasks[name] - full.subtasks[name]
        return f"{gain:+.0f}" if round(gain) else "0", abs(gain) / most, "more" if gain > 0 else "less"

    caption = f"score less that of full; deepest at {most:.0f}, with a sign before every number that is not 0"
    return [*maps, _map("difference from full", caption, names, rows, relative)]


def _map(name: str, caption: str, names: Sequence[str], rows: Sequence[Row], cell) -> dict[str, Any]:
    lines = [(row.plan, [cell(row, name) for name in names]) for row in rows]
    return {"name": name, "caption": caption, "names": names, "lines": lines}


def _samples(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The stored samples of all plans, picture by picture, as the page's script reads them; None where there are none.

    Of several seeds the first is shown. Pictures are embedded once each.
    """
    held = [{entry["key"]: entry for entry in samples.read(Path(row.folders[0]))} for row in rows]
    files = {key: (row.root, entry["picture"]) for row, entries in zip(rows, held) for key, entry in entries.items()}
    if not files:
        return None
    pictures: dict[tuple[Path, str], dict[str, Any]] = {}
    for row, entries in zip(rows, held):
        for line in read_predictions(Path(row.folders[0]) / "predictions.jsonl"):
            if (place := files.get(line["key"])) is None:
                continue
            if place not in pictures:
                about = {"name": line["picture"], "category": line["category"], "src": _embedded(*place)}
                pictures[place] = {**about, "questions": {}}
            asked = {"text": line["prompt"], "label": line["label"], "answers": []}
            question = pictures[place]["questions"].setdefault(line["key"], asked)
            question["answers"].append(_answer(row.plan, line, entries.get(line["key"])))
    found = list(pictures.values())
    for picture in found:
        picture["questions"] = list(picture["questions"].values())
    layers = max(entry["layers"] for entries in held for entry in entries.values())
    return {"layers": layers, "pictures": found}


def _answer(plan: str, line: dict, entry: dict | None) -> dict[str, Any]:
    """What one plan made of one question: words, whether they are right, tokens layer by layer, and what was kept."""
    kept = line.get("kept", [])
    changes = [layer for layer in range(len(kept)) if not layer or kept[layer] != kept[layer - 1]]
    return {
        "plan": plan,
        "text": line.get("error") or line["text"][:LONGEST],
        "right": bool(line["correct"]),
        "tokens": [[layer, kept[layer]] for layer in changes],
        "patches": entry and entry["patches"],
        "stages": entry["stages"] if entry else [],
    }


def _embedded(root: Path, name: str) -> str:
    """A stored picture as a data address; empty, with a warning, where it is gone."""
    file = root / "pictures" / Path(name).name
    try:
        return "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()
    except FileNotFoundError:
        logger.warning("%s is gone; its sample is shown without the picture", file)
        return ""


def _machines(rows: Sequence[Row]) -> list[str]:
    """What the runs were measured on, each machine once."""
    found = {}
    for file in (Path(folder) / "environment.json" for row in rows for folder in row.folders):
        if file.is_file():
            held = read_json(file)
            versions = ", ".join(f"{name} {value}" for name, value in held.get("versions", {}).items() if value)
            where = held.get("gpu") or f"{held.get('processor')}, {held.get('threads')} threads"
            commit = f"; commit {held['commit'][:12]}" if held.get("commit") else ""
            found[f"{where}; Python {held.get('python')}, {versions}{commit}"] = None
    return list(found)


def _breakable(text: str) -> Markup:
    """Text that may be broken after the signs that plans and subtasks are joined by."""
    return Markup("").join(
        Markup("{}<wbr>").format(letter) if letter in "_+@-" else Markup.escape(letter) for letter in text
    )


def _unbroken(head: str) -> str:
    """A heading whose units stay beside their numbers."""
    return head.replace(" / ", "\u00a0/\u00a0").replace(" %", "\u00a0%")

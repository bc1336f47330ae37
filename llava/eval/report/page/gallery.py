"""The stored samples of a board, picture by picture, as the page's script reads them."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...results import samples
from ...results.folder import read_predictions
from ...tasks.base import Line
from ..rows import Row

logger = logging.getLogger(__name__)

LONGEST = 300  # characters of an answer that are shown


def gallery(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The stored samples of all plans; None where there are none.

    With several seeds the first is shown. Pictures are embedded once each.
    """
    entries = [{entry["key"]: entry for entry in samples.read(Path(row.folders[0]))} for row in rows]
    sources = {
        key: (row.results, entry["picture"])
        for row, by_key in zip(rows, entries, strict=True)
        for key, entry in by_key.items()
    }
    if not sources:
        return None
    pictures: dict[tuple[Path, str], dict[str, Any]] = {}
    for row, by_key in zip(rows, entries, strict=True):
        for line in read_predictions(Path(row.folders[0]) / "predictions.jsonl"):
            if (source := sources.get(line["key"])) is None:
                continue
            if source not in pictures:
                about = {"name": line["picture"], "category": line["category"], "src": embedded(*source)}
                pictures[source] = {**about, "questions": {}}
            question = {"text": line["prompt"], "label": line["label"], "answers": []}
            question = pictures[source]["questions"].setdefault(line["key"], question)
            question["answers"].append(sample_of(row.plan, line, by_key.get(line["key"])))
    shown = [{**picture, "questions": list(picture["questions"].values())} for picture in pictures.values()]
    layers = max(entry["layers"] for by_key in entries for entry in by_key.values())
    return {"layers": layers, "pictures": shown}


def sample_of(plan: str, line: Line, entry: dict[str, Any] | None) -> dict[str, Any]:
    """One plan's answer to one question: words, whether they are right, tokens by layer, and what was kept."""
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


def embedded(root: Path, name: str) -> str:
    """A stored picture as a data address; empty, with a warning, where the file is gone."""
    file = root / "pictures" / Path(name).name
    try:
        return "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()
    except FileNotFoundError:
        logger.warning("%s is gone; its sample is shown without the picture", file)
        return ""

"""A dozen pictures of every cell, with the patches its plan kept, as the page's script draws them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...report.page.gallery import embedded, sample_of
from ...results import samples
from ...results.folder import read_predictions
from ..board import Entry


def pictures_of(entries: Sequence[Entry]) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """The pictures of one model and task, each embedded once, and for every entry its answers about them.

    Shown are the first of a picture's questions, the last of a plan's stages and the first of several seeds. An answer
    says in ``picture`` which one it is about. A run without stored samples has none.
    """
    pictures: dict[tuple[Path, str], int] = {}
    shown: list[dict[str, Any]] = []
    answers: list[list[dict[str, Any]]] = []
    for entry in entries:
        answers.append([])
        if entry.row is None:
            continue
        folder, results = Path(entry.row.folders[0]), entry.row.results
        first: dict[str, dict[str, Any]] = {}
        for sample in samples.read(folder):
            first.setdefault(sample["picture"], sample)
        wanted = {sample["key"]: sample for sample in first.values()}
        for line in read_predictions(folder / "predictions.jsonl") if wanted else ():
            sample = wanted.get(line["key"])
            if sample is None:
                continue
            source = (results, sample["picture"])
            if source not in pictures:
                pictures[source] = len(shown)
                shown.append({"src": embedded(*source), "text": line["prompt"], "label": line["label"]})
            answer = sample_of(line["category"], line, {**sample, "stages": sample["stages"][-1:]})
            answers[-1].append({"picture": pictures[source], "layers": sample["layers"], **answer})
    return shown, answers

"""Finished runs of a small MME, written as the harness writes them, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from zlib import crc32

from PIL import Image

from llava.eval.ask.pricing import method_label
from llava.eval.results.folder import Run, summarise_cost
from llava.eval.results.samples import FILE, FORMAT, store, to_mask
from llava.eval.tasks.base import Task
from llava.eval.tasks.mme import Mme
from llava.files import write_json
from llava.reduction import plan_from, plan_name

SUBTASKS = ("existence", "count", "commonsense_reasoning")
LAYERS = 4


def questions(pictures: int = 6, subtasks: Sequence[str] = SUBTASKS) -> list[str]:
    """The keys of two questions a picture, ``pictures`` pictures a subtask; the answer to the first is yes."""
    return [f"{name}/{number:04}.png#{q}" for name in subtasks for number in range(pictures) for q in (1, 2)]


def make_run(
    root: Path,
    plan: str,
    wrong: Collection[str] = (),
    tokens: int = 64,
    keys: Sequence[str] = tuple(questions()),
    failed: Collection[str] = (),
    timed: bool = False,
    kind: type[Task] = Mme,
    **model: object,
) -> Path:
    """A finished run in ``root``: every question right but the ``wrong``; ``timed`` lines know their prefill.

    From layer 2 on ``tokens`` of 576 are left. ``kind`` is the benchmark that scores the answers. ``model`` goes to that part of the configuration.
    """
    stages = plan_from("" if plan == "full" else plan)
    config = {
        "model": {"name": "llava-shapes-v1", "fingerprint": "aa", **model},
        "plan": {"stages": [str(stage) for stage in stages]},
        "conv_mode": "vicuna_v1",
    }
    kept = [576, 576] + [576 if plan == "full" else tokens] * (LAYERS - 2) if plan != "blind" else [0] * LAYERS
    cost = {"visual_tokens": sum(kept) / LAYERS, "total_flops": 1e7 * sum(kept) + 2e9, "kv_bytes": 1e4 * sum(kept)}
    with Run(root / plan_name(stages), config) as run:
        for key in keys:
            picture, label = key.partition("#")[0], "Yes" if key.endswith("1") else "No"
            other = {"Yes": "No", "No": "Yes"}[label]
            text = "" if key in failed else other if key in wrong else label
            about = {"key": key, "question_id": picture, "picture": picture, "image": picture}
            line = {
                **about,
                "category": picture.partition("/")[0],
                "prompt": f"Is it so in {key}?",
                "text": text,
                "answer": text.lower(),
                "label": label,
                "correct": text == label,
            }
            answered = {"kept": kept, "cost": cost, "seconds": 0.04, "tower_seconds": 0.009}
            timing = {"prefill_seconds": 0.03} if timed else {}
            run.append({**line, "error": "cannot be read"} if key in failed else {**line, **answered, **timing})
        task = object.__new__(kind)  # its questions are not needed to score answers
        metrics = {"plan": run.folder.name, "method": method_label(stages), **task.metrics(run.lines)}
        run.finish(metrics, summarise_cost(run.lines))
    return run.folder


def add_samples(folder: Path, keys: Sequence[str], kept: Sequence[int], merges: bool = False) -> None:
    """Store samples of a run: one stage at layer 2 that keeps these of 4 x 4 patches, and a picture of its own hue each."""
    entries = []
    for key in keys:
        hue = crc32(key.partition("#")[0].encode())
        picture = store(folder.parent, Image.new("RGB", (32, 32), (hue % 256, hue // 256 % 256, 128)))
        stage = {"stage": "fastv@2:3", "layer": 2, "merges": merges, "kept": to_mask(kept, 16)}
        entries.append({"key": key, "picture": picture, "layers": LAYERS, "patches": 4, "stages": [stage]})
    write_json(folder / FILE, {"format": FORMAT, "samples": entries})

"""MME's layout: two yes/no questions about each picture of each subtask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from llava.constants import SHORT_ANSWER, YES_OR_NO
from llava.files import read_jsonl

from .files import YES_NO, asked, put_json, put_jsonl
from .protocol import Turn, World

MME_FOLDER = "MME_Benchmark_release_version"
# The real benchmark keeps pictures and truth of these in folders of their own, those of the others side by side.
MME_NESTED = ("scene",)


def write_mme(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """``llava_mme.jsonl``, ``MME_test.json``, and pictures and truth where MME keeps them.

    No picture is asked about twice: pictures are what scores vary over, and two names of one would pass for two.
    """
    lines: list[dict] = []
    made = Counter[str]()
    for subtask, scene, pair in (_dealt if world.shared else _own)(world, images, seed):
        made[subtask] += 1
        inside, apart = ("images/", "questions_answers_YN/") if subtask in MME_NESTED else ("", "")
        picture = f"{subtask}/{inside}{made[subtask]:04d}{world.suffix}"
        truth = folder / MME_FOLDER / subtask / apart / f"{made[subtask]:04d}.txt"
        world.save(scene, folder / MME_FOLDER / picture)
        truth.parent.mkdir(exist_ok=True)
        answered = zip(pair, YES_NO)
        truth.write_text("".join(f"{text} {YES_OR_NO}\t{answer}\n" for text, answer in answered), encoding="utf-8")
        lines += [asked(picture, picture, text, subtask) for text in pair]
        yield
    lines.sort(key=lambda line: world.subtasks.index(line["category"]))
    put_jsonl(lines, folder / "llava_mme.jsonl")
    write_mme_test(folder)


Asked = tuple[str, Any, Turn]  # subtask, scene, pair


def _own(world: World, images: int, seed: int) -> Iterator[Asked]:
    """``images`` pictures drawn for each subtask; one that cannot carry it is skipped."""
    for number, subtask in enumerate(world.subtasks):
        carried = (
            (subtask, scene, pair)
            for _, scene, rng in world.pictures(1, seed, number)
            if (pair := world.yes_no_pair(subtask, scene, rng)) is not None
        )
        yield from islice(carried, images)


def _dealt(world: World, images: int, seed: int) -> Iterator[Asked]:
    """``images`` pictures dealt out: each to the subtask that has the fewest of those that it can carry."""
    made = dict.fromkeys(world.subtasks, 0)
    for _, scene, rng in islice(world.pictures(1, seed), images):
        for subtask in sorted(made, key=lambda one: made[one]):
            if (pair := world.yes_no_pair(subtask, scene, rng)) is not None:
                made[subtask] += 1
                yield subtask, scene, pair
                break


def write_mme_test(folder: Path) -> None:
    """``MME_test.json``, the questions of ``llava_mme.jsonl`` as HiMAP's fork lists them; pictures keep their names."""
    lines = read_jsonl(folder / "llava_mme.jsonl")
    records = [
        {
            "question_id": line["question_id"],
            "question": line["text"].replace(f"\n{SHORT_ANSWER}", f" {YES_OR_NO}"),
            "answer": answer,
            "category": line["category"],
            "image_file": line["image"],
        }
        for line, answer in zip(lines, YES_NO * (len(lines) // 2), strict=True)
    ]
    put_json(records, folder / "MME_test.json")

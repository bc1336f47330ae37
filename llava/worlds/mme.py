"""MME's layout: two yes/no questions about each picture in each subtask."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from llava.constants import SHORT_ANSWER, YES_OR_NO
from llava.files import read_jsonl

from .files import asked, put_json, put_jsonl
from .protocol import World

MME_FOLDER = "MME_Benchmark_release_version"
MME_NESTED = (
    "scene",
)  # the real benchmark keeps pictures and truth of these in separate folders, those of the others side by side


def write_mme(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """``llava_mme.jsonl``, ``MME_test.json``, and pictures and truth where MME keeps them."""
    lines: list[dict] = []
    for number, subtask in enumerate(world.subtasks):
        made = _same_pictures if world.shared else _own_pictures
        for name, picture, truth, pair in made(world, folder / MME_FOLDER, subtask, images, (seed, number)):
            if pair is not None:
                told = "".join(f"{text} {YES_OR_NO}\t{answer}\n" for text, answer in zip(pair, ("Yes", "No")))
                file = folder / MME_FOLDER / truth
                file.parent.mkdir(exist_ok=True)
                with open(file, "a", encoding="utf-8") as answers:
                    answers.write(told)
                lines += [asked(name, picture, text, subtask) for text in pair]
            yield
    put_jsonl(lines, folder / "llava_mme.jsonl")
    write_mme_test(folder)


Asked = tuple[str, str, str, tuple[str, str] | None]  # name, picture, truth, pair


def _own_pictures(world: World, root: Path, subtask: str, images: int, stream: tuple[int, int]) -> Iterator[Asked]:
    """``images`` pictures of this subtask alone, each with a pair; a picture that cannot carry one is skipped."""
    carried = (
        (scene, pair)
        for _, scene, rng in world.pictures(1, *stream)
        if (pair := world.yes_no_pair(subtask, scene, rng)) is not None
    )
    for made, (scene, pair) in enumerate(islice(carried, images), start=1):
        inside, apart = ("images/", "questions_answers_YN/") if subtask in MME_NESTED else ("", "")
        picture = f"{subtask}/{inside}{made:04d}{world.suffix}"
        world.save(scene, root / picture)
        yield picture, picture, f"{subtask}/{apart}{made:04d}.txt", pair


def _same_pictures(world: World, root: Path, subtask: str, images: int, stream: tuple[int, int]) -> Iterator[Asked]:
    """The same pictures for every subtask, with no pair where one cannot carry it."""
    for number, scene, rng in islice(world.pictures(1, *stream), images):
        picture = f"images/{number:04d}{world.suffix}"
        if not (root / picture).exists():
            world.save(scene, root / picture)
        pair = world.yes_no_pair(subtask, scene, rng)
        yield f"{subtask}/{number:04d}{world.suffix}", picture, f"questions_answers_YN/{number:04d}.txt", pair


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
        for line, answer in zip(lines, ("Yes", "No") * (len(lines) // 2), strict=True)
    ]
    put_json(records, folder / "MME_test.json")

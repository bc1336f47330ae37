"""The drawn world in the layouts of real benchmarks, so that what runs on them runs on it by a changed path.

    python -m llava.shapes.export --format mme --output playground/data/eval/MME-shapes

=============  ========================================================================================================
``mme``        ``llava_mme.jsonl``; pictures and truth under ``MME_Benchmark_release_version`` where MME keeps them:
               ``existence/0001.png`` beside ``existence/0001.txt``, but ``scene/images`` and ``scene/questions_answers_YN``
``scienceqa``  ``problems.json``, ``pid_splits.json``, ``llava_test_CQM-A.json``, ``himap-inference-MCQ.json``,
               ``images/test/{id}/image.png``
``llava``      ``llava_shapes.json`` (conversations) and ``images/``, the layout LLaVA trains on
=============  ========================================================================================================

The same seed writes the same bytes. The pictures come from a stream of seeds of their own, which no training reads.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from llava.utils import exit_code

from . import questions, world
from .questions import CATEGORIES, SHORT_ANSWER, conversation, multiple_choice, yes_no_pair

logger = logging.getLogger(__name__)

STREAM = 86_028_121  # first number of every seed drawn here; training draws from small ones
MARK = "export.json"  # written last: a folder that has it is complete
MME_FOLDER = "MME_Benchmark_release_version"
MME_NESTED = ("scene",)  # the real benchmark keeps pictures and truth of these apart, those of the others side by side
IMAGES = {"mme": 25, "scienceqa": 200, "llava": 1000}

Drawn = tuple[world.Scene, np.random.Generator]


def _pictures(*stream: int) -> Iterator[Drawn]:
    """Scenes without end, each with the generator its questions are drawn from."""
    number = 0
    while True:
        number += 1
        yield world.make_scene(STREAM, *stream, number), np.random.default_rng((STREAM, *stream, number, 2))


def _save(scene: world.Scene, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    world.render(scene).save(file)


def _write_json(content: object, file: Path) -> None:
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _mme(folder: Path, images: int, seed: int) -> Iterator[None]:
    asked = []
    for number, category in enumerate(CATEGORIES):
        made = 0
        for scene, rng in _pictures(1, seed, number):
            pair = yes_no_pair(category, scene, rng)
            if pair is None:
                continue
            made += 1
            nested = category in MME_NESTED
            picture = f"{category}/images/{made:04d}.png" if nested else f"{category}/{made:04d}.png"
            truth = f"{category}/questions_answers_YN/{made:04d}.txt" if nested else f"{category}/{made:04d}.txt"
            _save(scene, folder / MME_FOLDER / picture)
            lines = [f"{text} Please answer yes or no.\t{answer}\n" for text, answer in zip(pair, ("Yes", "No"))]
            file = folder / MME_FOLDER / truth
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(lines), encoding="utf-8")
            asked += [
                {"question_id": picture, "image": picture, "text": f"{text}\n{SHORT_ANSWER}", "category": category}
                for text in pair
            ]
            yield
            if made == images:
                break
    (folder / "llava_mme.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")


def _scienceqa(folder: Path, images: int, seed: int) -> Iterator[None]:
    problems, asked = {}, []
    for number, (scene, rng) in zip(range(1, images + 1), _pictures(2, seed)):
        key, problem = str(number), multiple_choice(scene, rng)
        problems[key] = {
            **problem,
            "hint": "",
            "image": "image.png",
            "task": "closed choice",
            "grade": "grade1",
            "subject": "natural science",
            "topic": "shapes",
            "category": "drawn world",
            "skill": "look at a picture",
            "lecture": "",
            "solution": "",
            "split": "test",
        }
        choices = [f"{letter}. {choice}" for letter, choice in zip("ABCDE", problem["choices"])]
        asked.append(
            {
                "id": key,
                "image": f"{key}/image.png",
                "conversations": [
                    {"from": "human", "value": "\n".join(["<image>", "Context: N/A", problem["question"], *choices])},
                    {"from": "gpt", "value": "ABCDE"[problem["answer"]]},
                ],
            }
        )
        _save(scene, folder / "images" / "test" / key / "image.png")
        yield
    _write_json(problems, folder / "problems.json")
    _write_json({"train": [], "val": [], "test": list(problems)}, folder / "pid_splits.json")
    for name in ("llava_test_CQM-A.json", "himap-inference-MCQ.json"):  # the second: those of the first with a picture
        _write_json(asked, folder / name)


def _llava(folder: Path, images: int, seed: int) -> Iterator[None]:
    records = []
    for number, (scene, rng) in zip(range(1, images + 1), _pictures(3, seed)):
        pair = yes_no_pair(str(rng.choice(CATEGORIES)), scene, rng) or ()
        told = conversation(scene, rng, 4) + list(zip(pair, ("Yes", "No")))
        turns = []
        for turn, (question, answer) in enumerate(told):
            value = f"<image>\n{question}\n{SHORT_ANSWER}" if turn == 0 else question
            turns += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
        name = f"{number:06d}"
        records.append({"id": name, "image": f"{name}.png", "conversations": turns})
        _save(scene, folder / "images" / f"{name}.png")
        yield
    _write_json(records, folder / "llava_shapes.json")


_WRITERS = {"mme": _mme, "scienceqa": _scienceqa, "llava": _llava}


def export(layout: str, output: str | Path, images: int | None = None, seed: int = 0, progress: bool = False) -> Path:
    """Draw pictures and questions into ``output`` in the given layout; a folder that is complete is left as it is.

    ``layout`` is mme, scienceqa or llava; ``images`` is a number of pictures, for mme that of each subtask (default 25,
    200 and 1000). Everything is written to a folder beside ``output`` that takes its name at the end, so ``output`` is whole
    or not there. Raises ValueError for an unknown layout, for fewer than one picture, and when ``output`` holds something
    else.
    """
    if layout not in _WRITERS:
        raise ValueError(f"format={layout!r} is not known; choose one of {', '.join(_WRITERS)}")
    images = IMAGES[layout] if images is None else images
    if images < 1:
        raise ValueError(f"images={images} is too few; give at least 1")
    output = Path(output)
    source = b"".join(Path(module.__file__).read_bytes() for module in (world, questions))
    made = {"format": layout, "images": images, "seed": seed, "world": f"{zlib.crc32(source):08x}"}
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        mark = output / MARK
        found = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
        if found == made:
            logger.info("%s is complete, nothing to draw", output)
            return output
        held = "something that was not written here" if found is None else f"another export ({found})"
        raise ValueError(
            f"output={str(output)!r} holds {held}, asked for is {made}; give another folder or remove this one"
        )
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    total = images * (len(CATEGORIES) if layout == "mme" else 1)
    for _ in track(_WRITERS[layout](partial, images, seed), f"drawing {layout}", total, disable=not progress):
        pass
    _write_json(made, partial / MARK)
    if output.exists():
        output.rmdir()
    partial.rename(output)
    logger.info("%d pictures in %s", total, output)
    return output


def parser() -> argparse.ArgumentParser:
    """Layout, folder, how many pictures, seed."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.shapes.export", description="Draw the embedded world as a benchmark."
    )
    flags.add_argument("--format", choices=tuple(_WRITERS), default="mme")
    flags.add_argument("--output", required=True, help="folder to make")
    flags.add_argument(
        "--images", type=int, help="pictures; for mme, of each subtask (default 25; scienceqa 200, llava 1000)"
    )
    flags.add_argument("--seed", type=int, default=0)
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    given = parser().parse_args(arguments)
    return exit_code(lambda: export(given.format, given.output, given.images, given.seed, progress=True))


if __name__ == "__main__":
    sys.exit(main())

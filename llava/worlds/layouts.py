"""How each benchmark lays out its files, written with a world's pictures and questions about them.

A writer takes the world, the folder to fill, how many pictures, and a seed; it yields after each picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from .annotated import write_coco_caption, write_gqa, write_textvqa, write_vqav2
from .files import BOX, OPTIONS, asked, conversation, lettered, put_json, put_jsonl
from .mme import write_mme
from .protocol import World

POPE_CATEGORIES = ("random", "popular", "adversarial")
POPE_HALF = 3  # questions about what is there, and as many about what is not, of each picture in each category
BOXED = 3  # most things of a picture whose boxes are asked for

Writer = Callable[[World, Path, int, int], Iterator[None]]


def write_scienceqa(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """One question with lettered options about each picture."""
    topic, category = world.about
    problems, lines = {}, []
    for number, scene, rng in islice(world.pictures(2, seed), images):
        key, problem = str(number), world.multiple_choice(scene, rng)
        problems[key] = {
            **problem,
            "hint": "",
            "image": f"image{world.suffix}",
            "task": "closed choice",
            "grade": "grade1",
            "subject": "natural science",
            "topic": topic,
            "category": category,
            "skill": "look at a picture",
            "lecture": "",
            "solution": "",
            "split": "test",
        }
        choices = lettered(problem["choices"])
        lines.append(
            {
                "id": key,
                "image": f"{key}/image{world.suffix}",
                "conversations": [
                    {"from": "human", "value": "\n".join(["<image>", "Context: N/A", problem["question"], *choices])},
                    {"from": "gpt", "value": OPTIONS[problem["answer"]]},
                ],
            }
        )
        world.save(scene, folder / "images" / "test" / lines[-1]["image"])
        yield
    put_json(problems, folder / "problems.json")
    put_json({"train": [], "val": [], "test": list(problems)}, folder / "pid_splits.json")
    for name in ("llava_test_CQM-A.json", "himap-inference-MCQ.json"):  # the second: those of the first with a picture
        put_json(lines, folder / name)


def write_llava(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """Conversations that LLaVA trains on."""
    records = []
    for number, scene, rng in islice(world.pictures(3, seed), images):
        name = f"{number:06d}"
        records.append(conversation(name, f"{name}{world.suffix}", world.told(scene, rng)))
        world.save(scene, folder / "images" / records[-1]["image"])
        yield
    put_json(records, folder / f"llava_{world.name}.json")


def write_pope(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """What is there, and what is not: at random, the most frequent, and what most often goes with what is there."""
    drawn = list(islice(world.pictures(4, seed), images))
    present = [world.present(scene) for _, scene, _ in drawn]
    often = Counter(name for names in present for name in names)
    together = Counter((one, other) for names in present for one in names for other in names)
    truth: dict[str, list[dict]] = {category: [] for category in POPE_CATEGORIES}
    for (number, scene, rng), names in zip(drawn, present):
        absent = [str(name) for name in rng.permutation(world.absent(scene))]
        ranked = {
            "random": absent,
            "popular": sorted(absent, key=lambda name: -often[name]),
            "adversarial": sorted(absent, key=lambda name: -sum(together[name, other] for other in names)),
        }
        there = [str(name) for name in rng.permutation(names)[:POPE_HALF]]
        image = f"COCO_val2014_{number:012d}{world.suffix}"
        for category, not_there in ranked.items():
            for pair in zip(there, not_there):
                for name, label in zip(pair, ("yes", "no")):
                    text = world.is_there(name)
                    truth[category].append(
                        {"question_id": len(truth[category]) + 1, "image": image, "text": text, "label": label}
                    )
        world.save(scene, folder / "val2014" / image)
        yield
    for category, lines in truth.items():
        put_jsonl(lines, folder / "coco" / f"coco_pope_{category}.json")
    told = [(category, line) for category, lines in truth.items() for line in lines]
    put_jsonl(
        (asked(number, line["image"], line["text"], category) for number, (category, line) in enumerate(told)),
        folder / "llava_pope_test.jsonl",
    )


def write_boxes(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """The boxes of things that are there once, at most three per picture, asked as LLaVA asks RefCOCO."""
    lines, truth = [], []
    for number, scene, rng in islice(world.pictures(9, seed), images):
        boxes = world.boxes(scene)
        image = f"{number:06d}{world.suffix}"
        for place in rng.permutation(len(boxes))[:BOXED]:
            name, kind, box = boxes[place]
            key = f"{number:06d}-{place}"
            lines.append({"question_id": key, "image": image, "text": f"{BOX}{name}", "category": kind})
            truth.append({"question_id": key, "box": [round(value, 4) for value in box]})
        world.save(scene, folder / "images" / image)
        yield
    put_jsonl(lines, folder / "llava_boxes.jsonl")
    put_jsonl(truth, folder / "boxes.jsonl")


WRITERS: dict[str, Writer] = {
    "mme": write_mme,
    "scienceqa": write_scienceqa,
    "llava": write_llava,
    "pope": write_pope,
    "boxes": write_boxes,
    "textvqa": write_textvqa,
    "coco_caption": write_coco_caption,
    "gqa": write_gqa,
    "vqav2": write_vqav2,
}

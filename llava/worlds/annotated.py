"""The layouts whose answers are those of people: TextVQA, COCO Caption, GQA, VQAv2."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .files import asked, people, put_json, put_jsonl, which_sign, with_token
from .protocol import World

CAPTIONS = 5  # of a picture
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def write_textvqa(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """What is written in the picture, with what OCR read."""
    lines, data = [], []
    readable = ((drawn, sign) for drawn in world.pictures(5, seed) if (sign := world.written(drawn.scene)) is not None)
    for number, (drawn, (sign, noun, alphabet)) in enumerate(islice(readable, images), start=1):
        name = f"{number:016x}"
        question = which_sign(noun)
        data.append(
            {
                "question": question,
                "image_id": name,
                "question_id": number,
                "answers": people(sign, alphabet, drawn.rng),
                "image_classes": [],
                "set_name": "val",
            }
        )
        lines.append(asked(name, f"{name}{world.suffix}", with_token(question, sign)))
        world.save(drawn.scene, folder / "train_images" / lines[-1]["image"])
        yield
    put_jsonl(lines, folder / "llava_textvqa_val_v051_ocr.jsonl")
    about = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    put_json({**about, "data": data}, folder / "TextVQA_0.5.1_val.json")


def write_coco_caption(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """A request to describe each picture, and five descriptions of it."""
    lines, pictures, captions = [], [], []
    for number, scene, rng in islice(world.pictures(6, seed), images):
        file = f"COCO_val2014_{number:012d}{world.suffix}"
        told = [world.caption(scene, rng) for _ in range(CAPTIONS)]
        pictures.append({"id": number, "file_name": file, "width": world.size, "height": world.size})
        captions += [
            {"id": len(captions) + at, "image_id": number, "caption": text} for at, (_, text) in enumerate(told)
        ]
        lines.append({"question_id": number, "image": file, "text": told[0][0], "category": "default"})
        world.save(scene, folder / "val2014" / file)
        yield
    put_jsonl(lines, folder / "llava_coco_caption_val2014.jsonl")
    put_json({"images": pictures, "annotations": captions}, folder / "annotations" / "captions_val2014.json")


def write_gqa(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """Two open questions and a yes/no pair about each picture."""
    lines, truth = [], {}
    for number, scene, rng in islice(world.pictures(7, seed), images):
        pair = _existence(world, scene, rng)
        told = [(question, answer, "query") for question, answer, _ in world.open_questions(scene, rng)[:2]]
        told += [(question, answer, "verify") for question, answer in zip(pair, ("yes", "no"))]
        for question, answer, structure in told:
            name, picture = f"{len(lines) + 1:08d}", f"n{number}"
            lines.append(asked(name, f"{picture}{world.suffix}", question))
            types = {"structural": structure}
            truth[name] = {"question": question, "imageId": picture, "answer": answer, "types": types}
        world.save(scene, folder / "data" / "images" / f"n{number}{world.suffix}")
        yield
    put_jsonl(lines, folder / "llava_gqa_testdev_balanced.jsonl")
    put_json(truth, folder / "data" / "testdev_balanced_questions.json")


def write_vqav2(world: World, folder: Path, images: int, seed: int) -> Iterator[None]:
    """Two open questions and a yes/no pair about each picture, answered by ten people."""
    lines, truth = [], []
    for number, scene, rng in islice(world.pictures(8, seed), images):
        image = f"COCO_test2015_{number:012d}{world.suffix}"
        told = [(*one, "number" if one[1] in NUMBERS else "other") for one in world.open_questions(scene, rng)[:2]]
        told += [
            (question, answer, ("yes", "no"), "yes/no")
            for question, answer in zip(_existence(world, scene, rng), ("yes", "no"))
        ]
        for at, (question, answer, options, kind) in enumerate(told):
            name = 1000 * number + at
            lines.append(asked(name, image, question))
            said = enumerate(people(answer, options, rng), start=1)
            truth.append(
                {
                    "question_id": name,
                    "image_id": number,
                    "question_type": " ".join(question.split()[:2]).lower(),
                    "answer_type": kind,
                    "multiple_choice_answer": answer,
                    "answers": [{"answer": one, "answer_confidence": "yes", "answer_id": who} for who, one in said],
                }
            )
        world.save(scene, folder / "test2015" / image)
        yield
    for split in ("test-dev2015", "test2015"):  # the second: all that the server asks for
        put_jsonl(lines, folder / f"llava_vqav2_mscoco_{split}.jsonl")
    put_json({"annotations": truth}, folder / "v2_mscoco_test-dev2015_annotations.json")


def _existence(world: World, scene: Any, rng: np.random.Generator) -> tuple[str, str]:
    pair = world.yes_no_pair("existence", scene, rng)
    if pair is None:
        raise ValueError(f"world={world.name!r} has a scene without a question of existence; every scene carries one")
    return pair

"""How each benchmark lays out its files, written with drawn pictures and questions about them.

A writer takes the folder to fill, how many pictures, and a seed; it yields after each picture it has drawn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from llava.constants import SHORT_ANSWER
from llava.files import read_jsonl

from . import world
from .questions import (
    CATEGORIES,
    NUMBER_WORDS,
    caption,
    conversation,
    existence_pair,
    multiple_choice,
    open_questions,
    yes_no_pair,
)

STREAM = 86_028_121  # first number of every seed drawn here; training draws from small ones
MME_FOLDER = "MME_Benchmark_release_version"
MME_NESTED = ("scene",)  # the real benchmark keeps pictures and truth of these apart, those of the others side by side
POPE_CATEGORIES = ("random", "popular", "adversarial")
POPE_HALF = 3  # questions about what is there, and as many about what is not, of each picture in each category
PEOPLE = 10  # who answer a question of TextVQA or VQAv2
CARELESS = 0.1  # how often one of them is wrong

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


def _write_jsonl(lines: Iterable[dict], file: Path) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


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
    _write_jsonl(asked, folder / "llava_mme.jsonl")
    write_mme_test(folder)


def write_mme_test(folder: Path) -> None:
    """``MME_test.json``, the questions of ``llava_mme.jsonl`` as HiMAP's fork lists them; pictures keep their names."""
    lines = read_jsonl(folder / "llava_mme.jsonl")
    records = [
        {
            "question_id": line["question_id"],
            "question": line["text"].replace(f"\n{SHORT_ANSWER}", " Please answer yes or no."),
            "answer": answer,
            "category": line["category"],
            "image_file": line["image"],
        }
        for line, answer in zip(lines, ("Yes", "No") * (len(lines) // 2), strict=True)
    ]
    _write_json(records, folder / "MME_test.json")


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
        told = conversation(scene, rng, 2)
        pairs = (yes_no_pair(str(category), scene, rng) for category in rng.permutation(CATEGORIES))
        for pair in islice(filter(None, pairs), 3):
            told += zip(pair, ("Yes", "No"))
        told = [told[place] for place in rng.permutation(len(told))]  # or a No would follow every Yes
        turns = []
        for turn, (question, answer) in enumerate(told):
            value = f"<image>\n{question}\n{SHORT_ANSWER}" if turn == 0 else question
            turns += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
        name = f"{number:06d}"
        records.append({"id": name, "image": f"{name}.png", "conversations": turns})
        _save(scene, folder / "images" / f"{name}.png")
        yield
    _write_json(records, folder / "llava_shapes.json")


def _pope(folder: Path, images: int, seed: int) -> Iterator[None]:
    drawn = list(islice(_pictures(4, seed), images))
    present = [sorted({item.kind for item in scene.shapes}) for scene, _ in drawn]
    often = Counter(kind for kinds in present for kind in kinds)
    together = Counter((one, other) for kinds in present for one in kinds for other in kinds)
    truth: dict[str, list[dict]] = {category: [] for category in POPE_CATEGORIES}
    for number, ((scene, rng), kinds) in enumerate(zip(drawn, present), start=1):
        absent = [str(kind) for kind in rng.permutation([kind for kind in world.SHAPES if kind not in kinds])]
        ranked = {
            "random": absent,
            "popular": sorted(absent, key=lambda kind: -often[kind]),
            "adversarial": sorted(absent, key=lambda kind: -sum(together[kind, other] for other in kinds)),
        }
        there = [str(kind) for kind in rng.permutation(kinds)[:POPE_HALF]]
        image = f"COCO_val2014_{number:012d}.png"
        for category, kinds_not_there in ranked.items():
            for pair in zip(there, kinds_not_there):
                for kind, label in zip(pair, ("yes", "no")):
                    text = f"Is there a {kind} in the image?"
                    truth[category].append(
                        {"question_id": len(truth[category]) + 1, "image": image, "text": text, "label": label}
                    )
        _save(scene, folder / "val2014" / image)
        yield
    (folder / "coco").mkdir()
    for category, lines in truth.items():
        _write_jsonl(lines, folder / "coco" / f"coco_pope_{category}.json")
    asked = [(category, line) for category, lines in truth.items() for line in lines]
    _write_jsonl(
        (_asked(number, line["image"], line["text"], category) for number, (category, line) in enumerate(asked)),
        folder / "llava_pope_test.jsonl",
    )


def _textvqa(folder: Path, images: int, seed: int) -> Iterator[None]:
    asked, data = [], []
    readable = ((scene, rng) for scene, rng in _pictures(5, seed) if len(scene.glyphs) == 1)
    for number, (scene, rng) in zip(range(1, images + 1), readable):
        name, glyph = f"{number:016x}", scene.glyphs[0].kind
        alphabet, noun = (world.LETTERS, "letter") if glyph in world.LETTERS else (world.DIGITS, "number")
        question = f"Which {noun} is written in the image?"
        data.append(
            {
                "question": question,
                "image_id": name,
                "question_id": number,
                "answers": _people(glyph, alphabet, rng),
                "image_classes": [],
                "set_name": "val",
            }
        )
        asked.append(_asked(name, f"{name}.png", f"{question}\nReference OCR token: {glyph}"))
        _save(scene, folder / "train_images" / f"{name}.png")
        yield
    _write_jsonl(asked, folder / "llava_textvqa_val_v051_ocr.jsonl")
    about = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    _write_json({**about, "data": data}, folder / "TextVQA_0.5.1_val.json")


def _coco_caption(folder: Path, images: int, seed: int) -> Iterator[None]:
    asked, pictures, captions = [], [], []
    for number, (scene, rng) in zip(range(1, images + 1), _pictures(6, seed)):
        file = f"COCO_val2014_{number:012d}.png"
        told = [caption(scene, rng) for _ in range(5)]
        pictures.append({"id": number, "file_name": file, "width": world.SIZE, "height": world.SIZE})
        captions += [
            {"id": len(captions) + at, "image_id": number, "caption": text} for at, (_, text) in enumerate(told)
        ]
        asked.append({"question_id": number, "image": file, "text": told[0][0], "category": "default"})
        _save(scene, folder / "val2014" / file)
        yield
    _write_jsonl(asked, folder / "llava_coco_caption_val2014.jsonl")
    (folder / "annotations").mkdir()
    _write_json({"images": pictures, "annotations": captions}, folder / "annotations" / "captions_val2014.json")


def _gqa(folder: Path, images: int, seed: int) -> Iterator[None]:
    asked, truth = [], {}
    for number, (scene, rng) in zip(range(1, images + 1), _pictures(7, seed)):
        pair = existence_pair(scene, rng)
        told = [(question, answer, "query") for question, answer in conversation(scene, rng, 2)]
        told += [(question, answer, "verify") for question, answer in zip(pair, ("yes", "no"))]
        for question, answer, structure in told:
            name, picture = f"{len(asked) + 1:08d}", f"n{number}"
            asked.append(_asked(name, f"{picture}.png", question))
            types = {"structural": structure}
            truth[name] = {"question": question, "imageId": picture, "answer": answer, "types": types}
        _save(scene, folder / "data" / "images" / f"n{number}.png")
        yield
    _write_jsonl(asked, folder / "llava_gqa_testdev_balanced.jsonl")
    _write_json(truth, folder / "data" / "testdev_balanced_questions.json")


def _vqav2(folder: Path, images: int, seed: int) -> Iterator[None]:
    asked, truth = [], []
    for number, (scene, rng) in zip(range(1, images + 1), _pictures(8, seed)):
        image = f"COCO_test2015_{number:012d}.png"
        told = [(*one, "number" if one[1] in NUMBER_WORDS else "other") for one in open_questions(scene, rng)[:2]]
        told += [
            (question, answer, ("yes", "no"), "yes/no")
            for question, answer in zip(existence_pair(scene, rng), ("yes", "no"))
        ]
        for at, (question, answer, options, kind) in enumerate(told):
            name = 1000 * number + at
            asked.append(_asked(name, image, question))
            people = enumerate(_people(answer, options, rng), start=1)
            truth.append(
                {
                    "question_id": name,
                    "image_id": number,
                    "question_type": " ".join(question.split()[:2]).lower(),
                    "answer_type": kind,
                    "multiple_choice_answer": answer,
                    "answers": [{"answer": one, "answer_confidence": "yes", "answer_id": who} for who, one in people],
                }
            )
        _save(scene, folder / "test2015" / image)
        yield
    for split in ("test-dev2015", "test2015"):  # the second: all that the server asks for
        _write_jsonl(asked, folder / f"llava_vqav2_mscoco_{split}.jsonl")
    _write_json({"annotations": truth}, folder / "v2_mscoco_test-dev2015_annotations.json")


def _asked(question_id: str | int, image: str, question: str, category: str = "default") -> dict:
    """A line of a question file in LLaVA's format."""
    text = f"{question}\n{SHORT_ANSWER}"
    return {"question_id": question_id, "image": image, "text": text, "category": category}


def _people(answer: str, options: Iterable[str], rng: np.random.Generator) -> list[str]:
    """What ten people say, most of them the answer."""
    wrong = [option for option in options if option != answer]
    return [str(rng.choice(wrong)) if rng.random() < CARELESS else answer for _ in range(PEOPLE)]


WRITERS: dict[str, Callable[[Path, int, int], Iterator[None]]] = {
    "mme": _mme,
    "scienceqa": _scienceqa,
    "llava": _llava,
    "pope": _pope,
    "textvqa": _textvqa,
    "coco_caption": _coco_caption,
    "gqa": _gqa,
    "vqav2": _vqav2,
}

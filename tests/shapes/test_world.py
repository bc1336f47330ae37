"""The drawn world is deterministic, readable and asks fair questions."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections import defaultdict

import numpy as np
import pytest

from llava.shapes.questions import CATEGORIES, caption, conversation, multiple_choice, open_questions, yes_no_pair
from llava.shapes.world import COLOURS, GRID, SIZE, coverage, make_crowd, make_scene, patch_owner, render

SCENES = [make_scene(3, number) for number in range(60)]


def test_a_seed_is_a_picture_in_every_process():
    here = zlib.crc32(render(make_scene(5, 6)).tobytes())
    code = "import zlib; from llava.shapes.world import *; print(zlib.crc32(render(make_scene(5, 6)).tobytes()))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(there) == here
    assert here != zlib.crc32(render(make_scene(5, 7)).tobytes())


def test_pictures_fit_the_tower_and_objects_are_small_and_apart():
    assert render(SCENES[0]).size == (SIZE, SIZE)
    for scene in SCENES:
        shares = np.stack([coverage(item) for item in scene.items])
        assert ((shares > 0.02).sum(axis=0) <= 2).all()
        patches = (shares > 0).sum(axis=(1, 2))
        assert patches.max() <= 36 and patches.min() >= 2  # of 576; the thin one is a 1
    assert len(make_crowd(1, 2).items) >= 14


def test_objects_are_drawn_where_and_as_the_scene_says():
    """The patch an object covers most has its colour (a ring's and a letter's centre may be background)."""
    for scene in SCENES[:20]:
        pixels = np.asarray(render(scene), dtype=float)
        for item in scene.items:
            row, column = np.unravel_index(coverage(item).argmax(), (GRID, GRID))
            patch = pixels[row * 14 : row * 14 + 14, column * 14 : column * 14 + 14].reshape(-1, 3)
            distance = np.abs(patch - np.array(COLOURS[item.colour])).sum(axis=1)
            assert np.sort(distance)[:15].mean() < 60


def test_patch_owner_names_the_object_that_covers_most():
    scene = SCENES[0]
    owner = patch_owner(scene)
    assert owner.shape == (GRID, GRID) and owner.min() == -1
    assert set(owner[owner >= 0]) == set(range(len(scene.items)))


def holds(scene, question: str) -> bool | None:
    """An independent reading of existence and colour questions."""
    words = question.rstrip("?").split()
    if question.startswith("Is there a") and "only" not in question:
        kind, colour = words[-4], words[-5] if words[-5] in COLOURS else None
        return any(item.kind == kind and colour in (None, item.colour) for item in scene.shapes)
    if question.startswith("Is the ") and words[-1] in COLOURS:
        return scene.only(words[2]).colour == words[-1]
    return None


@pytest.mark.parametrize("category", CATEGORIES)
def test_pairs_are_one_yes_and_one_no(category):
    asked = 0
    for number, scene in enumerate(SCENES):
        pair = yes_no_pair(category, scene, np.random.default_rng(number))
        if pair is not None:
            asked += 1
            assert pair[0] != pair[1] and all(question.endswith("?") for question in pair)
            for question, truth in zip(pair, (True, False)):
                assert holds(scene, question) in (truth, None)
    assert asked >= 15


def test_wording_tells_nothing():
    """The best answer by question text alone, fitted on the very questions it is judged by, stays near one half."""
    counts = defaultdict(lambda: [0, 0])
    for number in range(1500):
        scene, rng = make_scene(4, number), np.random.default_rng(number)
        for category in CATEGORIES:
            for place, question in enumerate(yes_no_pair(category, scene, rng) or ()):
                counts[question][place] += 1
    assert sum(map(max, counts.values())) / sum(map(sum, counts.values())) < 0.57


def test_open_questions_choices_and_captions_agree_with_the_scene():
    for number, scene in enumerate(SCENES):
        rng = np.random.default_rng(number)
        for question, answer, options in open_questions(scene, rng):
            assert answer in options
            if question.startswith("What color is the "):
                assert scene.only(question.split()[4].rstrip("?")).colour == answer
        asked = multiple_choice(scene, rng)
        assert len(set(asked["choices"])) == len(asked["choices"]) and 0 <= asked["answer"] < len(asked["choices"])
        assert len(conversation(scene, rng, 3)) == 3
        for item in scene.shapes:
            assert f"{item.kind} {item.colour}" in caption(scene, rng)[1]


def test_an_unknown_subtask_is_named():
    with pytest.raises(ValueError, match="'colour' is not a subtask"):
        yes_no_pair("colour", SCENES[0], np.random.default_rng(0))

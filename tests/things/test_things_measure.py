"""What a trained model tells: who sees is right about all, who only knows the words is right about half."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llava.eval.ask.subject import Reply
from llava.things import measure as module
from llava.things.measure import NUMBERS, main, measure
from llava.things.world.questions import DESCRIBE, Questions
from tests.things.world.fake import fake_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return fake_world(tmp_path_factory.mktemp("world"))


class Knowing:
    """Knows which scene a picture shows, and is asked in batches."""

    def __init__(self, world, things, says=None):
        self.questions, self.says = Questions(world), says
        scenes = [world.scene(module.SEED, things, number, least=things, most=things) for number in range(20)]
        self.scenes = {np.asarray(world.render(scene)).tobytes(): scene for scene in scenes}

    def encode(self, images, plan=()):
        return [self.scenes[np.asarray(image).tobytes()] for image in images]

    def answer(self, texts, features, plan, generation):
        return [Reply(self.said(text, scene), [576], {}) for text, scene in zip(texts, features, strict=True)]

    def length(self, text, image):
        return len(text)

    def said(self, text, scene):
        if text == DESCRIBE:
            return self.questions.caption(scene, np.random.default_rng(0))[1]
        there = any(f" {item.name} in" in text for item in scene.items)
        return self.says or ("Yes." if there else "No.")


@pytest.mark.parametrize("things", NUMBERS)
def test_who_sees_is_right_about_all(world, things):
    found = measure(Knowing(world, things), world, things, 20)
    assert (found["named"], found["yes_no"]) == (1.0, 1.0) and found["by_chance"] < 0.4
    assert (found["things"], found["scenes"]) == (things, 20)


@pytest.mark.parametrize("says", ["Yes", "No", "I do not know"])
def test_who_sees_nothing_is_right_about_half_at_most(world, says):
    assert measure(Knowing(world, 2, says), world, 2, 20)["yes_no"] == (0.5 if len(says) < 4 else 0.0)


def test_a_name_inside_another_word_is_none(world, monkeypatch):
    knowing = Knowing(world, 1)
    monkeypatch.setattr(knowing.questions, "caption", lambda scene, rng: ("", f"A b{scene.items[0].name}ing."))
    assert measure(knowing, world, 1, 20)["named"] == 0.0


def test_one_picture_is_too_few(world):
    with pytest.raises(ValueError, match="scenes=1 must be 2 or more"):
        measure(Knowing(world, 1), world, 1, 1)


def test_the_command_prints_and_writes_figures(world, tmp_path, capsys, monkeypatch):
    class Opened:
        layers = 30

        def subject(self):
            return Knowing(world, 1)

    monkeypatch.setattr(module, "open_checkpoint", lambda spec: Opened())
    monkeypatch.setattr(module, "load_world", lambda cache, mirror: world)
    monkeypatch.setattr(module, "NUMBERS", (1,))
    file = tmp_path / "figures.json"
    assert main(["--scenes", "12", "--reduction", "pool:144", "--json", str(file)]) == 0
    assert "100.0%" in capsys.readouterr().out and json.loads(file.read_text())[0]["named"] == 1.0
    assert main(["--scenes", "12", "--reduction", "fastv@99:64"]) == 2

"""VLMEvalKit's model, against a base class with the interface of its own."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType

import pytest

from llava.constants import LETTER_ANSWER
from llava.eval.run_llava import ask
from llava.model.builder import load_pretrained_model
from llava.shapes.world import make_scene, render

HOME = "llava.harness.vlmevalkit"
QUESTION = "What is the background of the image?\nAnswer the question using a single word or phrase."


class BaseModel:
    """What VLMEvalKit calls of a model: ``generate`` checks a message and hands it to ``generate_inner``."""

    INTERLEAVE = False
    allowed_types = ["text", "image", "video"]

    def __init__(self):
        self.dump_image_func = None

    def set_dump_image(self, function):
        self.dump_image_func = function

    def dump_image(self, line, dataset):
        return self.dump_image_func(line)

    def generate(self, message, dataset=None):
        assert all(item["type"] in self.allowed_types for item in message)
        return self.generate_inner(message, dataset)

    def chat(self, messages, dataset=None):
        return self.chat_inner(messages, dataset=dataset)


@pytest.fixture
def kit(monkeypatch):
    names = ("vlmeval", "vlmeval.vlm", "vlmeval.vlm.base", "vlmeval.dataset")
    modules = {name: ModuleType(name) for name in names}
    modules["vlmeval.vlm.base"].BaseModel = BaseModel
    modules["vlmeval.dataset"].DATASET_TYPE = {"MMBench": "MCQ", "MME": "Y/N"}.get
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, HOME, raising=False)
    yield importlib.import_module(HOME)
    sys.modules.pop(HOME, None)


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "scene.png"
    render(make_scene(3)).save(file)
    return str(file)


def test_it_answers_under_the_plan_with_its_costs_beside(kit, picture, embedded, tmp_path):
    costs = tmp_path / "costs.jsonl"
    model = kit.LlavaCondense(str(embedded), "fastv@2:64", device="cpu", costs=str(costs), max_new_tokens=8)
    message = [{"type": "image", "value": picture}, {"type": "text", "value": QUESTION}]
    said = model.generate(message, dataset="MME")
    assert said == ask(load_pretrained_model(embedded, device="cpu"), picture, QUESTION, "fastv@2:64")
    dialogue = [
        {"role": "user", "content": message},
        {"role": "assistant", "content": [{"type": "text", "value": said}]},
        {"role": "user", "content": [{"type": "text", "value": "Is there a heart?"}]},
    ]
    assert model.chat(dialogue, dataset="MMDU")
    assert model.generate([{"type": "text", "value": "word " * 5000}]).startswith("Failed to obtain answer: the prompt")
    with pytest.raises(AssertionError):
        model.generate([{"type": "video", "value": "a.mp4"}])
    lines = [json.loads(line) for line in costs.read_text().splitlines()]
    assert [line["task"] for line in lines] == ["MME", "MMDU"]
    assert all(line["visual_tokens_entering"] == 576 and line["gflops"] > 0 for line in lines)
    assert lines[0]["visual_tokens_per_layer"] == pytest.approx((2 * 576 + 12 * 64) / 14)


def test_lettered_options_are_asked_as_llava_asks_them(kit, embedded):
    model = kit.LlavaCondense(str(embedded), device="cpu")
    assert model.use_custom_prompt("MMBench") and not model.use_custom_prompt("MME")
    model.set_dump_image(lambda line: [f"{line['index']}.jpg"])
    nothing = float("nan")
    line = {"index": 7, "question": "How many?", "hint": "Count.", "A": 2, "B": 3.5, "C": nothing, "D": nothing}
    assert model.build_prompt(line, "MMBench") == [
        {"type": "image", "value": "7.jpg"},
        {"type": "text", "value": f"Count.\nHow many?\nA. 2\nB. 3.5\n{LETTER_ANSWER}"},
    ]
    line["hint"] = nothing
    assert model.build_prompt(line, "MMBench")[1]["value"].startswith("How many?\nA. 2")


def test_without_vlmevalkit_it_says_where_it_comes_from(monkeypatch):
    monkeypatch.setitem(sys.modules, "vlmeval", None)
    monkeypatch.delitem(sys.modules, HOME, raising=False)
    with pytest.raises(ImportError, match="open-compass/VLMEvalKit"):
        importlib.import_module(HOME)

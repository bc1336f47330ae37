"""The model behind every harness: order, batches, costs of prompts with and without pictures, ours or stock."""

from __future__ import annotations

import json

import pytest

from llava.cli.settings import ModelSpec
from llava.harness import respondent
from llava.harness.questions import Asked, user_turn
from llava.harness.respondent import Respondent, is_stock, open_respondent
from llava.serve.openai.chat import Sampling
from llava.shapes.world import make_scene, render

QUESTIONS = [
    Asked([user_turn([render(make_scene(1)), "What is the background of the image?"])], Sampling(), 4),
    Asked([user_turn(["Hello?"])], Sampling(), 3),
    Asked([user_turn([render(make_scene(2)), "Is there a heart?"])], Sampling(stop=("e",)), 5),
]


@pytest.fixture(scope="module", params=["own", "stock"])
def opened(request, embedded, stock_checkpoint):
    stock = request.param == "stock"
    return open_respondent(
        ModelSpec(stock_checkpoint if stock else embedded, device="cpu"), "fastv@2:16", stock=stock, batch=3
    )


def test_a_batch_is_each_alone_in_its_order(opened, stock_checkpoint):
    together = list(opened.answers(iter(QUESTIONS)))
    alone = list(Respondent(opened.chat).answers(QUESTIONS))
    assert together == alone and all(answered.error is None for answered in together)
    first, words, stopped = together
    assert first.cost["visual_tokens_entering"] == 576 > first.cost["visual_tokens_per_layer"] > 16
    assert words.cost["visual_tokens_per_layer"] == 0 and 0 < words.cost["gflops"] < first.cost["gflops"]
    assert first.entered > 576 > words.entered > 0 and words.new <= 3 and "e" not in stopped.text


def test_a_host_that_is_not_counted_still_has_its_tokens(opened, monkeypatch, caplog):
    def unknown(model):
        raise ValueError("the tower of model_type='new' is not counted")

    monkeypatch.setattr(respondent, "model_cost", unknown)
    uncounted = Respondent(opened.chat)
    for answered in uncounted.answers(QUESTIONS[:1] * 2):
        assert set(answered.cost) == {"visual_tokens_per_layer", "visual_tokens_entering"}
    assert caplog.text.count("is not counted") == 1


@pytest.mark.parametrize(
    ("kind", "stock"), [("llava_llama", False), ("llava", False), ("llava_qwen", False), ("qwen2_5_vl", True)]
)
def test_what_is_no_llava_is_opened_by_transformers(kind, stock, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert is_stock(ModelSpec(tmp_path)) is stock


def test_the_plan_of_the_environment_or_the_config_is_taken(embedded, stock_checkpoint, tmp_path, monkeypatch):
    for file in stock_checkpoint.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((stock_checkpoint / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {"reduction": "fastv@1:7"}))

    def plan(folder, reduction=None):
        return [
            str(stage)
            for stage in open_respondent(ModelSpec(folder, device="cpu"), reduction, stock=True).chat.reduction
        ]

    assert plan(tmp_path) == ["fastv@1:7"] and plan(stock_checkpoint) == ["full"]
    monkeypatch.setenv("LLAVA_REDUCTION", "divprune:4")
    assert plan(tmp_path) == ["divprune:4"] and plan(tmp_path, "pool:4") == ["pool:4"]
    own = open_respondent(ModelSpec(embedded, device="cpu")).chat.model.get_model().plan()
    assert [str(stage) for stage in own] == ["divprune:4"]
    with pytest.raises(ValueError, match="batch_size=0"):
        open_respondent(ModelSpec(embedded, device="cpu"), batch=0)

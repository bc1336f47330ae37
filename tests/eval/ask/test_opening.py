"""The one opener: template, prompts and questions are settled before a model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.cli.settings import EvalSettings, ModelSpec
from llava.constants import SHORT_ANSWER
from llava.eval.ask.opening import open_checkpoint, open_evaluation
from llava.shapes.export import export
from tests.conftest import PARITY15

CHECKPOINT = PARITY15 / "checkpoint"
EMBEDDED = Path(__file__).parents[3] / "playground/checkpoints/llava-shapes-v1"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return export("mme", tmp_path_factory.mktemp("data") / "MME", images=2)


def with_config(folder: Path, **fields: object) -> Path:
    """A copy of the checkpoint's config with further fields."""
    folder.mkdir()
    config = json.loads((CHECKPOINT / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


@pytest.mark.parametrize(
    ("given", "field", "usual", "template"),
    [
        ("plain", "vicuna_v1", "llava_v0", "plain"),
        (None, "vicuna_v1", "llava_v0", "vicuna_v1"),
        (None, None, "llava_v1", "llava_v1"),
        (None, None, None, "llava_v0"),
    ],
)
def test_the_first_that_names_a_template_decides(tmp_path, given, field, usual, template):
    folder = with_config(tmp_path / "model", **({"conv_mode": field} if field else {}))
    model = open_checkpoint(ModelSpec(folder, conv_mode=given, usual_conv_mode=usual))
    assert model.conv_mode == template


def test_the_embedded_model_is_asked_with_the_template_it_was_trained_with():
    """Its name, without the field in its config, would say llava_v1."""
    assert open_checkpoint(ModelSpec(EMBEDDED)).conv_mode == "vicuna_v1"


@pytest.mark.parametrize("place", ["conv_mode", "usual_conv_mode"])
def test_an_unknown_template_is_refused_with_the_nearest(tmp_path, place):
    folder = with_config(tmp_path / "model")
    with pytest.raises(ValueError, match="template 'vicuna_v2' is unknown.*vicuna_v1"):
        open_checkpoint(ModelSpec(folder, **{place: "vicuna_v2"}))


def test_where_the_picture_lies_is_read_from_the_prompt():
    model = open_checkpoint(ModelSpec(CHECKPOINT, conv_mode="vicuna_v1"))
    ids = model.prompt_ids("What?")
    place, tokens = model.span("What?")
    assert ids[place] < 0 and tokens == 576 and model.layers == 8
    assert all(token >= 0 for token in model.prompt_ids("What?", has_picture=False))


def test_nothing_is_loaded_to_open_an_evaluation(data, monkeypatch):
    monkeypatch.setattr("llava.eval.ask.opening.load_model", lambda spec: pytest.fail("loaded"))
    evaluation = open_evaluation(EvalSettings(ModelSpec(CHECKPOINT), "mme", data, limit=8))
    assert len(evaluation.task.examples) == 8 and evaluation.results == Path("playground/results/mme")
    assert evaluation.about == "checkpoint, 8 questions"


def test_shares_divide_the_pictures(data):
    shares = [
        open_evaluation(EvalSettings(ModelSpec(CHECKPOINT), "mme", data, share=(index, 3))).task.examples
        for index in range(3)
    ]
    whole = open_evaluation(EvalSettings(ModelSpec(CHECKPOINT), "mme", data)).task.examples
    assert [example for share in shares for example in share] == whole
    assert not {example.picture for example in shares[0]} & {example.picture for example in shares[1]}
    with pytest.raises(ValueError, match="share 99 of 100 has no question: there are 16 pictures, 1 a share"):
        open_evaluation(EvalSettings(ModelSpec(CHECKPOINT), "mme", data, share=(99, 100)))


def test_a_task_without_instructions_asks_the_question_alone(data):
    tasks = [
        open_evaluation(EvalSettings(ModelSpec(CHECKPOINT), "mme", data, instructed=instructed)).task
        for instructed in (True, False)
    ]
    (full, bare) = (task.prompt(task.examples[0]) for task in tasks)
    assert full.startswith(bare) and full != bare and SHORT_ANSWER not in bare


def test_checksums_tell_another_base_and_another_tower(tmp_path):
    """What lies in the checkpoint is in its own checksum; a base or a tower elsewhere has one of its own."""
    for name in ("base", "tower"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
    folder = with_config(tmp_path / "model", mm_vision_tower=str(tmp_path / "tower"))
    first = open_checkpoint(ModelSpec(folder, base=tmp_path / "base")).fingerprints()
    assert set(first) == {"fingerprint", "base_fingerprint", "tower_fingerprint"}
    (tmp_path / "base/config.json").write_text("{}")
    second = open_checkpoint(ModelSpec(folder, base=tmp_path / "base")).fingerprints()
    assert [name for name in first if first[name] != second[name]] == ["base_fingerprint"]
    inside = with_config(tmp_path / "whole", mm_vision_tower="tower")
    shutil.copytree(tmp_path / "tower", inside / "tower")
    assert set(open_checkpoint(ModelSpec(inside)).fingerprints()) == {"fingerprint"}

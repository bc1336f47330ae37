"""Records that share their picture: the loss and the gradients of each for itself, a picture read once, and clear words for what cannot be."""

from __future__ import annotations

import json

import pytest
import torch

from llava.constants import IGNORE_INDEX
from llava.model.builder import load_pretrained_model
from llava.reduction import reduced
from llava.shapes import world
from llava.train import shared
from llava.train import train as training
from llava.train.data import Collator
from llava.train.records import load_records
from llava.train.shared import SharedCollator, SharedPictures, shared_loss
from llava.worlds.files import conversation
from tests.conftest import PARITY15

CHECKPOINT = str(PARITY15 / "checkpoint")
QUESTIONS = (
    "What?",
    "Is it so?",
    "Which of the many shapes in this picture is to the left of all others?",
    "And?",
    "Why?",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three pictures, three to five questions each, in no order, and a text."""
    folder = tmp_path_factory.mktemp("data")
    records = []
    for number in range(3):
        world.render(world.make_scene(7, number)).save(folder / f"{number}.png")
        for place, question in enumerate(QUESTIONS[: 3 + number]):
            records.append(conversation(f"{number}-{place}", f"{number}.png", [(question, f"{place} of {number}")]))
    records = records[::2] + records[1::2]
    records.insert(4, {"conversations": [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Two."}]})
    (folder / "records.json").write_text(json.dumps(records))
    return folder


def words(data, output, *more):
    given = {
        "model_name_or_path": CHECKPOINT,
        "data_path": data / "records.json",
        "image_folder": data,
        "version": "v1",
    }
    given |= {"output_dir": output, "use_cpu": True, "disable_tqdm": True, "report_to": "none", "learning_rate": 2e-3}
    given |= {"per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no", "share_pictures": True}
    return [*(str(word) for name, value in given.items() for word in (f"--{name}", value)), *map(str, more)]


@pytest.fixture
def records(data, tmp_path, configured):
    model_args, data_args, args, _ = training.parse(words(data, tmp_path))
    return load_records(configured.model, configured.tokenizer, configured.image_processor, model_args, data_args, args)


def test_a_picture_and_its_records_are_one_item(records, data):
    together = SharedPictures(records)
    assert sorted(len(group) for group in together.groups) == [1, 3, 4, 5] and len(together) == 4
    for group, item in zip(together.groups, together):
        assert len({records.pictures(index) for index in group}) == 1
        assert len(item) == len(group) and [bool(row["images"]) for row in item] == [
            bool(records.pictures(group[0])),
            *[False] * (len(group) - 1),
        ]
        for index, row in zip(group, item):
            assert torch.equal(row["input_ids"], records[index]["input_ids"])
            assert torch.equal(row["labels"], records[index]["labels"])
    batch = SharedCollator(0)([together[0], together[1]])
    sizes = [len(together[0]), len(together[1])]
    assert batch["group"].tolist() == [0] * sizes[0] + [1] * sizes[1]


@pytest.mark.parametrize("plan", ["", "pool@features:16", "random:32"])
@pytest.mark.parametrize("kind", ["together", "with a text", "no common words", "a text alone"])
def test_loss_and_gradients_are_those_of_each_record_by_itself(records, llava15, plan, kind, monkeypatch):
    together, model = SharedPictures(records), llava15.model
    text = next(number for number, has in enumerate(together.has_image) if not has)
    chosen = {"with a text": [0, text, 2], "a text alone": [text]}.get(kind, [0, 3])
    items = [together[number] for number in chosen]
    if kind == "no common words":
        items[0][1]["input_ids"] = items[0][1]["input_ids"].clone()
        items[0][1]["input_ids"][0] += 1
    batch = SharedCollator(0)(items)
    rows = [
        {**row, "images": item[0]["images"], "image_sizes": item[0]["image_sizes"]} for item in items for row in item
    ]
    apart = Collator(0)(rows)
    trained = [model.model.layers[0].self_attn.q_proj.weight, model.model.mm_projector[0].weight]
    asked = [weight.requires_grad for weight in model.parameters()]
    calls = []
    monkeypatch.setattr(
        shared, "read_start", lambda *args, real=shared.read_start, **more: calls.append(1) or real(*args, **more)
    )
    try:
        model.requires_grad_(False)
        for weight in trained:
            weight.requires_grad_(True)
        with reduced(model, plan):
            one = shared_loss(model, batch)
            other = model(**apart).loss
        assert bool(calls) == (kind != "no common words")
        assert one.item() == pytest.approx(other.item(), rel=1e-5)
        found, wanted = (
            torch.autograd.grad(loss, trained, allow_unused=kind == "a text alone") for loss in (one, other)
        )
        for mine, theirs in zip(found, wanted):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
        with torch.no_grad(), reduced(model, plan):
            answers = int((batch["labels"] != IGNORE_INDEX).sum())
            assert shared_loss(model, batch, 2 * answers).item() == pytest.approx(other.item() / 2, rel=1e-5)
    finally:
        for weight, wanted in zip(model.parameters(), asked):
            weight.requires_grad_(wanted)


def test_what_is_trained_so_is_what_is_trained_apart(data, tmp_path, monkeypatch):
    """A LoRA in accumulated steps over all pictures, with their records read in one batch or each by itself."""
    more = [
        "--lora_enable",
        True,
        "--lora_r",
        4,
        "--lora_dropout",
        0.0,
        "--max_steps",
        2,
        "--reduction",
        "pool@features:16",
    ]
    more += ["--gradient_accumulation_steps", 2]
    read = []
    monkeypatch.setattr(
        shared, "read_start", lambda *args, real=shared.read_start, **kw: read.append(1) or real(*args, **kw)
    )
    trainer = training.train(*training.parse(words(data, tmp_path / "shared", *more)))
    assert len(read) == 4
    monkeypatch.setattr(shared, "common_length", lambda *_: 0)
    apart = training.train(*training.parse(words(data, tmp_path / "apart", *more)))
    steps, wanted = ([line["loss"] for line in one.state.log_history if "loss" in line] for one in (trainer, apart))
    assert len(steps) == 2 and steps == pytest.approx(wanted, rel=1e-3)
    _, model, _, _ = load_pretrained_model(tmp_path / "shared", CHECKPOINT, device="cpu")
    _, wanted, _, _ = load_pretrained_model(tmp_path / "apart", CHECKPOINT, device="cpu")
    for (name, one), other in zip(model.named_parameters(), wanted.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4, msg=name)


def test_a_picture_that_cannot_be_read_leaves_none_of_its_questions(data, tmp_path, configured):
    """With --skip_bad_records another record stands in, and nobody is asked about the wrong picture."""
    for file in data.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    model_args, data_args, args, _ = training.parse(words(tmp_path, tmp_path / "out", "--skip_bad_records", True))
    parts = (configured.model, configured.tokenizer, configured.image_processor)
    together = SharedPictures(load_records(*parts, model_args, data_args, args))
    place = [together.dataset.pictures(group[0]) for group in together.groups].index(("1.png",))
    assert len(together.groups[place]) == 4 and len(together[place]) == 1


def test_what_cannot_be_shared_says_why(data, tmp_path):
    for more, why in (
        (["--reduction", "fastv@2:16"], r"share_pictures=True, but fastv@2:16 chooses for every question by itself"),
        (["--reduction", "cdpruner:16,relevance=embeddings"], "cdpruner.* chooses for every question by itself"),
        (["--gradient_checkpointing", True], "needs the keys and values that gradient_checkpointing throws away"),
    ):
        with pytest.raises(ValueError, match=why):
            training.train(*training.parse(words(data, tmp_path / "out", *more)))
    with pytest.raises(ValueError, match="share_pictures=True in 2 processes"):
        shared.require_shareable([], 2, False)

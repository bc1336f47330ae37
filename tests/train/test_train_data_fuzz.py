"""Whatever a file of conversations holds, its bad records are named or skipped, and the rest is trained on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.model.tokenizer import load_tokenizer
from llava.train.data import ConversationDataset
from tests.conftest import PARITY15
from tests.damage import FUZZ, bomb, long_text, other_bytes, other_value

TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A red ring."}]
RECORDS = [
    {"id": "one", "image": "a.png", "conversations": TURNS},
    {"id": 2, "image": None, "conversations": [{**TURNS[0], "value": "Count."}, {**TURNS[1], "value": "1 2"}]},
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(PARITY15 / "checkpoint")


@pytest.fixture
def dataset(tmp_path, tokenizer):
    """Makes a dataset of a file's bytes beside a picture."""
    Image.new("RGB", (40, 20), (200, 10, 10)).save(tmp_path / "a.png")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})

    def make(content: bytes, name: str = "data.json", image_tokens=9, **options) -> ConversationDataset:
        (tmp_path / name).write_bytes(content)
        return ConversationDataset(
            tmp_path / name,
            tmp_path,
            "v1",
            tokenizer,
            processor,
            SimpleNamespace(image_aspect_ratio="pad"),
            2048,
            image_tokens,
            **options,
        )

    return make


def lines(records: list) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.mark.parametrize("skip_bad", [False, True], ids=["strict", "skipping"])
@FUZZ
@given(data=st.data())
def test_damaged_records_are_named_or_skipped(skip_bad, data, dataset):
    name, write = data.draw(
        st.sampled_from([("data.json", lambda all: json.dumps(all).encode()), ("data.jsonl", lines)])
    )
    if data.draw(st.booleans()):
        content = data.draw(other_bytes(write(RECORDS)))
    else:
        changed = data.draw(other_value(RECORDS))
        content = write(changed if isinstance(changed, list) else [changed])
    try:
        items = dataset(content, name, skip_bad=skip_bad, split_turns=data.draw(st.booleans()))
    except (ValueError, OSError) as error:
        assert name in str(error) and len(str(error)) < 3000
        return
    for item in items:
        assert len(item["input_ids"]) == len(item["labels"])


def test_a_bad_line_does_not_cost_the_others(dataset):
    bad = [b'{"cut sh', b"[" * 10**5, b'{"conversations": "\\ud83d"}', b"null"]
    content = lines(RECORDS) + b"\n".join(bad) + b"\n" + lines(RECORDS)
    items = dataset(content, "data.jsonl", skip_bad=True)
    assert len(items) == 4 and len(items.skipped) == 4


def test_half_a_surrogate_pair_is_named(dataset):
    half = {**RECORDS[1], "conversations": [{"from": "human", "value": "a\ud83d"}, TURNS[1]]}
    with pytest.raises(ValueError, match=r"record 2 \(id 2\): turn 1 \(human\) has '\\ud83d'"):
        dataset(json.dumps([RECORDS[0], half]).encode())
    assert len(dataset(json.dumps([RECORDS[0], half]).encode(), skip_bad=True)) == 1


@pytest.mark.parametrize("write", [bomb, long_text, lambda file: file.write_bytes(b"")], ids=["bomb", "text", "empty"])
@pytest.mark.parametrize("image_tokens", [9, lambda size: 9], ids=["fixed", "by size"])
def test_a_picture_that_cannot_be_opened_is_named_before_training_or_skipped(write, image_tokens, dataset, tmp_path):
    write(tmp_path / "bad.png")
    content = json.dumps([RECORDS[0], {**RECORDS[0], "id": "bad", "image": "bad.png"}]).encode()
    with pytest.raises(ValueError, match=r"record 2 \(id 'bad'\): image '.*bad.png' cannot be read"):
        dataset(content, image_tokens=image_tokens)
    items = dataset(content, image_tokens=image_tokens, skip_bad=True)
    assert [item["image_sizes"] for item in items] == [[(40, 20)]] * len(items)
    assert len(items) == (1 if callable(image_tokens) else 2)  # where sizes are read the record is left out at once


def test_positions_are_counted_for_the_picture_as_it_is_shown(dataset, tmp_path):
    exif, sizes = Image.Exif(), []
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (80, 40)).save(tmp_path / "phone.jpg", exif=exif)
    content = json.dumps([{**RECORDS[0], "image": "phone.jpg"}]).encode()
    items = dataset(content, image_tokens=lambda size: sizes.append(size) or 9)
    assert set(sizes) == {(40, 80)} == set(items[0]["image_sizes"])

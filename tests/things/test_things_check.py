"""The figures that say whether parts work, and the pictures they are measured on."""

from __future__ import annotations

import io
import math
import tarfile
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from llava.things import debian, pictures
from llava.things.check import naming_figures, sentence_figures
from llava.things.debian import package_content
from llava.things.pictures import Thing, fetch_things, find_things

STAMPS = {
    "animals/birds/heron": "A grey heron.",
    "animals/a_toad": "A toad.",
    "animals/b_toad": "A toad.",
    "food/apple": "An apple",
    "food/three": "Three apples.",
    "town/house": "A house.",
    "plants/long": "A very old oak.",
}


def write_stamps(folder):
    """Pictures with their texts, in the layout of the package; one text has no picture."""
    for number, (name, said) in enumerate(STAMPS.items()):
        file = folder / pictures.STAMPS.folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGBA", (40, 30))
        picture.paste((20 * number, 200 - 20 * number, 90, 255), (5, 5, 30, 20))
        picture.save(file)
        file.with_suffix(".txt").write_text(f"{said}\nde.utf8=Ein Ding.\n", encoding="utf-8")
    (folder / pictures.STAMPS.folder / "food" / "alone.txt").write_text("A pear.\n")
    return folder / pictures.STAMPS.folder


def write_package(file, folder, compression="xz"):
    """A Debian package that installs what is in a folder."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{compression}") as archive:
        archive.add(folder, ".")
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{compression}": content.getvalue()}
    with open(file, "wb") as package:
        package.write(b"!<arch>\n")
        for name, data in members.items():
            package.write(
                f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
            )


def test_names_of_one_or_two_words_with_a_picture(tmp_path):
    stamps = write_stamps(tmp_path)
    assert find_things(stamps) == [
        Thing("toad", "animal", stamps / "animals/a_toad.png"),
        Thing("grey heron", "animal", stamps / "animals/birds/heron.png"),
        Thing("apple", "food", stamps / "food/apple.png"),
    ]


def test_a_package_is_unpacked_once_and_whole(tmp_path, monkeypatch):
    write_stamps(tmp_path / "content")
    write_package(tmp_path / "made.deb", tmp_path / "content")

    def fetched(url, file, sha256, size):
        assert url == f"https://mirror/debian/{pictures.STAMPS.address}"
        file.parent.mkdir(exist_ok=True)
        return (tmp_path / "made.deb").rename(file)

    monkeypatch.setattr(debian, "download", fetched)
    for _ in range(2):
        things = fetch_things(tmp_path / "cache", "https://mirror/debian/")
        assert [thing.name for thing in things] == ["toad", "grey heron", "apple"]
        assert all(Image.open(thing.file).mode == "RGBA" for thing in things)
    assert not any(path.name.startswith(".") for path in (tmp_path / "cache").iterdir())


def test_a_package_that_is_none(tmp_path):
    (tmp_path / "a.deb").write_bytes(b"something else")
    (tmp_path / "b.deb").write_bytes(b"!<arch>\n")
    (tmp_path / "content").mkdir()
    write_package(tmp_path / "c.deb", tmp_path / "content", "bz2")
    for name, why in (("a", "is no Debian package"), ("b", r"holds no data\.tar"), ("c", r"as data\.tar\.bz2")):
        with pytest.raises(ValueError, match=why), package_content(tmp_path / f"{name}.deb"):
            pass


class Order(nn.Module):
    """Finds every token likely that is the last one plus one, as far as ``sure`` says, and the others alike."""

    device = torch.device("cpu")

    def __init__(self, sure: float, tokens: int = 50):
        super().__init__()
        self.sure, self.tokens = sure, tokens

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.sure * nn.functional.one_hot(input_ids + 1, self.tokens).float())


def count(text, return_tensors):
    """A tokenizer of numbers."""
    return SimpleNamespace(input_ids=torch.tensor([[int(word) for word in text.split()]]))


def test_sentences_are_told_from_their_words():
    sentences = [" ".join(map(str, range(start, start + 8))) for start in range(3)]
    figures = sentence_figures(count, Order(sure=5.0), sentences)
    certain = math.exp(5) / (math.exp(5) + 49)
    assert figures["preferred"] == 1
    assert figures["sensible"] == pytest.approx(1 / certain, rel=1e-5)
    assert figures["shuffled"] > 10 * figures["sensible"]
    clueless = sentence_figures(count, Order(sure=0.0), sentences)
    assert clueless == {"sensible": pytest.approx(50), "shuffled": pytest.approx(50), "preferred": 0}


class Colours(nn.Module):
    """A tower whose features are the colours of 14 pixels x 14; a blind one sees where a patch is and nothing else."""

    num_patches_per_side, dtype, blind = 24, torch.float32, False

    def forward(self, pixels):
        features = nn.functional.avg_pool2d(pixels, 14)
        if self.blind:
            features = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
        return features.flatten(2).mT


def processor(picture, return_tensors):
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, 336, 336, 3)
    return {"pixel_values": pixels.permute(0, 3, 1, 2).float() / 255}


@pytest.fixture
def things(tmp_path):
    """Twelve plain cut-outs: reds are food, blues are plants."""
    made = []
    for number in range(12):
        kind, shade = ("food", "plant")[number % 2], 20 * number
        picture = Image.new("RGBA", (60, 60))
        picture.paste((255, shade, 0, 255) if kind == "food" else (0, shade, 255, 255), (10, 10, 50, 50))
        picture.save(tmp_path / f"{number}.png")
        made.append(Thing(str(number), kind, tmp_path / f"{number}.png"))
    return made


@pytest.mark.parametrize("blind", [False, True])
def test_things_are_named_by_what_the_tower_sees(things, monkeypatch, blind):
    monkeypatch.setattr(
        "llava.things.check.process_images", lambda images, how, config: how(images[0], "pt")["pixel_values"]
    )
    tower = Colours()
    tower.blind = blind
    model = SimpleNamespace(get_vision_tower=lambda: tower, config=None, device="cpu")
    figures = naming_figures(model, processor, things)
    assert figures["things"] == 12 and figures["named_by_chance"] == pytest.approx(1 / 12)
    assert figures["kind_by_chance"] == pytest.approx(5 / 11)
    if blind:
        assert figures["named"] < 0.5
    else:
        assert figures["named"] == 1 and figures["kind"] == 1

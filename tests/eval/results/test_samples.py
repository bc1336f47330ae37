"""Stored samples: masks, pictures, and files that are not whole."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from llava.eval.results.samples import FILE, from_mask, read, store, to_mask


def test_a_mask_reads_back_and_starts_with_the_first_patch():
    assert to_mask([0, 9], 12) == "8040"  # 1000 0000 0100 (0000)
    assert from_mask("8040", 12) == [0, 9]
    assert from_mask(to_mask(range(576), 576), 576) == list(range(576)) and from_mask(to_mask([], 4), 4) == []
    with pytest.raises(ValueError, match="mask='8040'... has 16 bits, 24 patches"):
        from_mask("8040", 24)


def test_a_picture_is_stored_once_and_small(tmp_path):
    wide = Image.new("RGBA", (1000, 500), (255, 0, 0, 255))
    name = store(tmp_path, wide)
    assert store(tmp_path, wide) == name and len(list((tmp_path / "pictures").iterdir())) == 1
    with Image.open(tmp_path / name) as held:
        assert held.format == "JPEG" and held.size == (336, 168)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "samples.json:1 is not JSON"),
        ('{"format": 9}', "samples.json is of format 9, this version reads 1; remove it"),
        ('{"format": 1}', "not whole .'samples'.; remove it"),
        ('{"format": 1, "samples": [{"stages": []}]}', "key, picture, layers"),
        (
            json.dumps(
                {
                    "format": 1,
                    "samples": [{"key": "a", "picture": "b", "layers": 4, "patches": 4, "stages": [{"kept": "80"}]}],
                }
            ),
            "not whole .mask='80'... has 8 bits, 16 patches",
        ),
    ],
)
def test_a_spoiled_file_is_named(tmp_path, content, message):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)
    assert read(tmp_path / "nothing") == []

"""What a spec says is what the loader is told."""

from __future__ import annotations

import pytest

from llava.cli import loading
from llava.cli.settings import ModelSpec


@pytest.mark.parametrize(("bits", "flags"), [(None, (False, False)), (8, (True, False)), (4, (False, True))])
def test_every_field_reaches_the_loader(monkeypatch, bits, flags):
    calls = []
    monkeypatch.setattr(loading, "load_pretrained_model", lambda *path, **keywords: calls.append((path, keywords)))
    spec = ModelSpec("a/llava-x", base="b", device="cpu", dtype="bfloat16", bits=bits, attn="eager")
    loading.load_model(spec, reduction="fastv@2:64")
    ((path, keywords),) = calls
    assert path == ("a/llava-x", "b", "llava-x")
    assert (keywords.pop("load_8bit"), keywords.pop("load_4bit")) == flags
    assert keywords == {
        "device": "cpu",
        "torch_dtype": "bfloat16",
        "attn_implementation": "eager",
        "reduction": "fastv@2:64",
    }

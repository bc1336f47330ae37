"""Where weight files are, and whether they are whole."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from llava.model import checkpoint
from llava.model.checkpoint import find_folder, fingerprint, load_tensors, weight_names

TENSORS = {"a.weight": torch.arange(4.0), "b": torch.zeros(2)}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_names_and_tensors(tmp_path, name):
    save = torch.save if name.endswith("bin") else save_file
    save(TENSORS, tmp_path / name)
    assert weight_names(tmp_path) == set(TENSORS)
    assert torch.equal(load_tensors(tmp_path / name)["a.weight"], TENSORS["a.weight"])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-30])
    for read, argument in ((weight_names, tmp_path), (load_tensors, tmp_path / name)):
        with pytest.raises(ValueError, match=f"{name} is cut short"):
            read(argument)


def test_bin_files_from_before_zip(tmp_path):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert weight_names(tmp_path) == set(TENSORS)


def test_an_empty_folder_lists_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="none of model.safetensors.index.json"):
        weight_names(tmp_path)


def test_find_folder(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "file").touch()
    assert find_folder("inner", "model", (tmp_path,)) == tmp_path / "inner"
    assert find_folder(tmp_path, "model") == tmp_path
    with pytest.raises(FileNotFoundError, match="is a file; give the folder"):
        find_folder(tmp_path / "file", "model")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_folder("a/b/c", "model")


def test_the_hub_gives_one_format_only(tmp_path, monkeypatch):
    """Both formats are there: the index of safetensors decides which shards come."""
    asked = []
    for prefix, shard in (("model.safetensors", "s1.safetensors"), ("pytorch_model.bin", "p1.bin")):
        (tmp_path / f"{prefix}.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot_download)
    assert find_folder("someone/model", "model") == tmp_path
    assert "s1.safetensors" in asked[-1] and not any("p1.bin" in patterns for patterns in asked)


def test_a_fingerprint_sees_every_byte(tmp_path):
    """Also those in the middle of a large file, and a change that leaves size and both ends as they were."""
    weights = bytearray(3 * 2**20)
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "notes.md").write_text("not part of the model")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    (tmp_path / "notes.md").write_text("changed")
    assert fingerprint(tmp_path) == first
    weights[len(weights) // 2] = 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    second = fingerprint(tmp_path)
    assert second != first
    (tmp_path / "config.json").write_text("{}")
    assert fingerprint(tmp_path) not in (first, second)


def test_a_fingerprint_belongs_to_names_and_contents_not_to_a_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "tower").mkdir(parents=True)
        (tmp_path / name / "tower" / "config.json").write_text("{}")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    (tmp_path / "b" / "tower").rename(tmp_path / "b" / "lower")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
    assert fingerprint("someone/model") == "someone/model"

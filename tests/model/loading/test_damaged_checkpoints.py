"""A checkpoint that cannot be is refused before its weights are read, by file and field, and quickly."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.model import builder
from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import weight_files
from tests.conftest import PARITY15

DEEP = "[" * 20_000 + "]" * 20_000


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path, message: str, most: float = 3.0, **more) -> None:
    """Loading raises ValueError with this message before any weight is read, and soon."""
    begin = time.process_time()
    with pytest.raises(ValueError, match=message):
        load_pretrained_model(folder, device="cpu", **more)
    assert time.process_time() - begin < most


@pytest.fixture
def unread(monkeypatch):
    """No weight is read."""

    def read(*_, **__):
        pytest.fail("weights were read")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", read)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size='64' must be a whole number"),
        ({"intermediate_size": 1.5}, "intermediate_size=1.5 must be a whole number"),
        ({"intermediate_size": True}, "intermediate_size=True must be"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 must be"),
        ({"num_attention_heads": 3}, "config.json"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads=3"),
        ({"rope_scaling": {"type": "evil"}}, "config.json"),
        ({"rope_parameters": {"rope_type": "evil"}}, "config.json"),
        ({"hidden_act": "evil"}, "config.json"),
        ({"pad_token_id": 10**9}, "config.json"),
        ({"mm_hidden_size": None}, "mm_hidden_size is missing"),
        ({"mm_hidden_size": 33}, "mm_hidden_size=33.*32 wide"),
        ({"mm_vision_tower": 5}, "mm_vision_tower=5 must be a text"),
        ({"mm_vision_select_layer": -99}, "mm_vision_select_layer=-99.*give -4 to 3"),
        ({"mm_vision_select_layer": "x"}, "mm_vision_select_layer='x'"),
        ({"mm_vision_select_feature": "all"}, "mm_vision_select_feature='all'"),
        ({"mm_projector_type": "mlp999999x_gelu"}, "mm_projector_type='mlp999999x_gelu'"),
        ({"mm_projector_type": "linear"}, "missing model.mm_projector.bias.*not understood model.mm_projector.0.bias"),
        ({"image_grid_pinpoints": [[336]]}, "image_grid_pinpoints"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0 must be"),
        ({"vocab_size": 10**9}, "model.embed_tokens.weight of shape"),
        ({"hidden_size": 10**6}, "of shape|config.json"),
        ({"num_hidden_layers": 5000}, "num_hidden_layers=5000, but it holds 8 layers; missing model.layers.8."),
        ({"num_hidden_layers": 7}, "not understood model.layers.7."),
        ({"attention_bias": True}, "missing model.layers.0.self_attn.k_proj.bias"),
        ({"conv_mode": "vicuna1"}, "config.json.*'vicuna1' is unknown; did you mean 'vicuna_v1'"),
        ({"to_dict": 5}, "'to_dict' is no field"),
        ({"model_type": ["llava"]}, "model_type"),
        ({"text_config": 5}, "text_config"),
        ({"use_fast_v": "yes"}, "config.json.*use_fast_v"),
        ({"torch_dtype": "evil"}, "config.json"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_cannot_be(checkpoint, unread, values, message):
    edit(checkpoint / "config.json", **values)
    refused(checkpoint, message)


@pytest.mark.parametrize(
    "content", ["", "[]", "5", "{", DEEP, '{"model_type": ' + DEEP + "}", "\ufeff[]"], ids=range(7)
)
def test_a_config_that_is_no_object(checkpoint, unread, content):
    (checkpoint / "config.json").write_text(content)
    refused(checkpoint, "config.json.*fetch it again")


def test_a_byte_order_mark_is_skipped(checkpoint):
    file = checkpoint / "config.json"
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    load_pretrained_model(checkpoint, device="cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 5000}, "num_hidden_layers=5000, but it holds 3 layers"),
        ({"hidden_size": "32"}, "clip-tiny-patch14-336.config.json"),
        ({"num_attention_heads": 0}, "clip-tiny-patch14-336.config.json"),
        ({"patch_size": 0}, "patch_size=0 of the vision tower"),
        ({"image_size": 10**6}, "of shape|config.json"),
        ({"hidden_act": "evil"}, "clip-tiny-patch14-336.config.json"),
        ({"model_type": "siglip"}, "'siglip' is no vision tower"),
        ({"vision_config": 5}, "no vision tower"),
    ],
    ids=str,
)
def test_a_tower_that_cannot_be(checkpoint, unread, values, message):
    edit(checkpoint / "clip-tiny-patch14-336" / "config.json", **values)
    refused(checkpoint, message)


@pytest.mark.parametrize("content", ["", "[]", '{"size": 5}', '{"crop_size": "wide"}', '{"resample": "evil"}'])
def test_an_image_processor_that_cannot_be(checkpoint, content):
    (checkpoint / "clip-tiny-patch14-336" / "preprocessor_config.json").write_text(content)
    refused(checkpoint, "preprocessor_config.json")


# ------------------------------------------------------------------------------------------------------------- weights


def change(folder: Path, edit: Callable[[dict], dict], kind: str = "safetensors") -> None:
    file = folder / "model.safetensors"
    tensors = edit(load_file(file))
    if kind == "safetensors":
        save_file(tensors, file, {"format": "pt"})
    else:
        file.unlink()
        torch.save(tensors, folder / "pytorch_model.bin")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.norm.weight": torch.ones(63)}, r"model.norm.weight of shape \(63,\) where the model has \(64,\)"),
        ({"model.norm.weight": torch.ones(64, dtype=torch.int32)}, "model.norm.weight, which holds whole numbers"),
        ({"model.layers.3.extra": torch.ones(1)}, "not understood model.layers.3.extra"),
    ],
)
def test_a_tensor_that_does_not_fit(checkpoint, unread, kind, values, message):
    change(checkpoint, lambda tensors: tensors | values, kind)
    refused(checkpoint, message)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(checkpoint, number):
    change(checkpoint, lambda tensors: tensors | {"model.norm.weight": torch.full((64,), number)})
    refused(checkpoint, "not finite in model.norm.weight")


def test_a_tower_of_no_numbers(checkpoint):
    file = checkpoint / "clip-tiny-patch14-336" / "model.safetensors"
    save_file({name: tensor * torch.nan for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    refused(checkpoint, "not finite in model.vision_tower")


def test_a_layer_that_is_missing(checkpoint, unread):
    change(checkpoint, lambda tensors: {name: t for name, t in tensors.items() if ".layers.3." not in name})
    refused(checkpoint, "missing model.layers.3.")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "has no weight_map"),
        ("[]", "where a dict belongs"),
        ('{"weight_map": 5}', "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 5}}', "has no weight_map"),
        ('{"weight_map": {"a": "../../etc/passwd"}}', "outside of its folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "outside of its folder"),
        ('{"weight_map": {"a": "..\\\\..\\\\passwd"}}', "outside of its folder"),
        ("{", "not JSON"),
        (DEEP, "nested too deeply"),
    ],
    ids=range(10),
)
def test_an_index_that_is_none(checkpoint, unread, suffix, content, message):
    name = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}[suffix]
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_text(content)
    refused(checkpoint, f"{name}.*{message}")


def test_an_index_may_name_folders_below_its_own(checkpoint):
    (checkpoint / "parts").mkdir()
    (checkpoint / "model.safetensors").rename(checkpoint / "parts" / "a.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"a": "parts/a.safetensors"}}')
    assert weight_files(checkpoint) == [checkpoint / "parts/a.safetensors"]


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("content", [{"model.norm.weight": 5}, [1, 2], "text", "payload"])
def test_a_weight_file_that_holds_no_tensors(checkpoint, tmp_path, unread, content):
    (checkpoint / "model.safetensors").unlink()
    torch.save(Payload(tmp_path / "run") if content == "payload" else content, checkpoint / "pytorch_model.bin")
    refused(checkpoint, "pytorch_model.bin (holds no tensors|is cut short or damaged)")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------ keywords


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"local_file_only": True}, "did you mean 'local_files_only'"),
        ({"trust_remote_code": True}, "no code of a checkpoint is ever run"),
        ({"device": "banana"}, "device='banana' is unknown"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype='float8_e4m3fn'"),
        ({"conv_mode": "vicuna1"}, "did you mean 'vicuna_v1'"),
    ],
)
def test_keywords_that_cannot_be(unread, keywords, message):
    with pytest.raises(ValueError, match=message):
        load_pretrained_model(PARITY15 / "checkpoint", **({"device": "cpu"} | keywords))


def test_the_hubs_keywords_reach_it(checkpoint, monkeypatch):
    """`revision` belongs to the model alone; the rest to its base and tower too."""
    asked = []

    def find(name, what, *args, **hub):
        asked.append((what, {key: hub[key] for key in hub if key not in ("inside", "weights")}))
        return Path(name)

    monkeypatch.setattr(builder, "find_folder", find)
    hub = {"cache_dir": "here", "token": "t", "local_files_only": True}
    load_pretrained_model(checkpoint, device="cpu", revision="main", trust_remote_code=False, **hub)
    assert asked == [("model", hub | {"revision": "main"})]

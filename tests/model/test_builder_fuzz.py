"""Any value in any field of a checkpoint's JSON files: a model, or ValueError or OSError within a moment."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llava.model.builder import load_pretrained_model
from tests.conftest import PARITY15

MOST = 2.0  # seconds of computing until an answer, however busy the machine
FILES = (
    "config.json",
    "tower/config.json",
    "tower/preprocessor_config.json",
    "tokenizer_config.json",
    "generation_config.json",
)
CONFIG = json.loads((PARITY15 / "checkpoint" / "config.json").read_text())

FIELDS = {
    "config.json": [*CONFIG, "num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters", "rope_theta", "conv_mode",
                    "mm_vision_config", "vision_config", "text_config", "quantization_config", "image_grid_pinpoints",
                    "reduction", "use_fast_v", "fast_v_attention_rank", "max_sequence_length", "auto_map", "attn_implementation"],
    "tower/config.json": [*json.loads((PARITY15 / "checkpoint/clip-tiny-patch14-336/config.json").read_text()), "projection_dim"],
    "tower/preprocessor_config.json": ["size", "crop_size", "image_mean", "resample", "do_resize", "rescale_factor"],
    "tokenizer_config.json": ["legacy", "bos_token", "pad_token", "added_tokens_decoder", "model_max_length", "padding_side"],
    "generation_config.json": ["temperature", "eos_token_id", "pad_token_id", "do_sample", "max_length"],
}  # fmt: skip
NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 3, 7, 64, 10**6, 10**9, 10**30, 0.5, 1.5, -0.0, 1e308, float("nan"), float("inf")]
)
WORDS = st.sampled_from(
    ["", "64", "evil", "none", "llama", "linear", "mlp2x_gelu", "anyres", "../..", "\ud83d", "a" * 3000]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.sampled_from(["type", "rope_type"]), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
EDITS = st.sampled_from(FILES).flatmap(
    lambda file: st.tuples(
        st.just(file), st.dictionaries(st.sampled_from(FIELDS[file]), VALUES, min_size=1, max_size=2)
    )
)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The checkpoint with one decoder layer, which loads in a fraction of a second."""
    folder = Path(shutil.copytree(PARITY15 / "checkpoint", tmp_path_factory.mktemp("fuzz") / "checkpoint"))
    (folder / "clip-tiny-patch14-336").rename(folder / "tower")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers" not in name or "layers.0." in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 1, "mm_vision_tower": "tower"}))
    return folder


def load(folder: Path, file: str, content: str) -> str:
    """Loads with other content of one file; what came of it."""
    whole = (folder / file).read_text()
    (folder / file).write_text(content)
    begin = time.process_time()
    try:
        _, model, *_ = load_pretrained_model(folder, device="cpu")
        assert all(torch.isfinite(weight).all() for weight in model.parameters())
        return "loaded"
    except (ValueError, OSError) as error:
        return str(error)
    finally:
        (folder / file).write_text(whole)
        assert time.process_time() - begin < MOST


@given(edit=EDITS)
@settings(max_examples=50, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_in_any_field(small, edit):
    file, values = edit
    load(small, file, json.dumps(json.loads((small / file).read_text()) | values))


@given(file=st.sampled_from(FILES), cut=st.integers(0, 400), junk=st.text(max_size=8))
@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_damage_to_any_file(small, file, cut, junk):
    text = (small / file).read_text()
    load(small, file, text[:cut] + junk.encode("utf-8", "ignore").decode() + text[cut + len(junk) :])


def test_the_small_checkpoint_loads(small):
    """Else every edit would be refused for another reason."""
    assert load(small, "config.json", (small / "config.json").read_text()) == "loaded"
    assert "hidden_size" in load(small, "config.json", json.dumps(CONFIG | {"hidden_size": 0}))


def test_a_mutant_that_catches_less_is_seen(small, monkeypatch):
    """The fuzzer sees other errors: with the checks of fields gone it fails."""
    monkeypatch.setattr("llava.model.loading.config._check_fields", lambda raw, path: None)
    monkeypatch.setattr("llava.model.checkpoint.DAMAGE", ())
    seen: list[Any] = []
    for value in ("64", 0, 1.5):
        try:
            load(
                small,
                "config.json",
                json.dumps(json.loads((small / "config.json").read_text()) | {"num_attention_heads": value}),
            )
        except BaseException as error:  # noqa: BLE001  whatever it is
            seen.append(type(error))
    assert any(not issubclass(kind, ValueError | OSError) for kind in seen)

"""Save, load, same logits: for every layout that is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaForConditionalGeneration

from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import weight_names
from llava.model.convert import to_llava_hf
from tests.conftest import PARITY15


def load(folder: Path, base: Path | None = None, **more: Any) -> Any:
    return load_pretrained_model(folder, base, device="cpu", **more)


def as_safetensors(checkpoint: Path) -> tuple[Path, Path | None]:
    return checkpoint, None


def as_bin(checkpoint: Path) -> tuple[Path, Path | None]:
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    return checkpoint, None


def as_llava_hf(checkpoint: Path) -> tuple[Path, Path | None]:
    to_llava_hf(checkpoint, checkpoint.parent / "hf", dtype="float32")
    return checkpoint.parent / "hf", None


def as_old_llava_hf(checkpoint: Path) -> tuple[Path, Path | None]:
    """Named as transformers 5 names its modules, not as it saves them."""
    folder, _ = as_llava_hf(checkpoint)
    tensors = load_file(folder / "model.safetensors")
    names = {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."}
    names |= {"vision_tower.vision_model.": "model.vision_tower.", "multi_modal": "model.multi_modal"}
    for old, new in names.items():
        tensors = {name.replace(old, new, 1) if name.startswith(old) else name: t for name, t in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder, None


def as_projector(checkpoint: Path) -> tuple[Path, Path | None]:
    base = Path(shutil.copytree(checkpoint, checkpoint.parent / "base"))
    tensors = load_file(checkpoint / "model.safetensors")
    torch.save({name: t for name, t in tensors.items() if "mm_projector" in name}, checkpoint / "mm_projector.bin")
    (checkpoint / "model.safetensors").unlink()
    rest = {name: t for name, t in tensors.items() if "mm_projector" not in name}
    save_file(rest, base / "model.safetensors", {"format": "pt"})
    return checkpoint, base


LAYOUTS = [as_safetensors, as_bin, as_llava_hf, as_old_llava_hf, as_projector]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_logits(checkpoint, tmp_path, llava15, layout):
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"conv_mode": "vicuna_v1"}))
    tokenizer, model, *_ = load(*layout(checkpoint))
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert not any("?" in name or "language_model" in name for name in weight_names(tmp_path / "saved"))
    _, again, image_processor, _ = load(tmp_path / "saved")
    assert again.config.conv_mode == model.config.conv_mode == "vicuna_v1"
    assert image_processor.to_dict()["crop_size"] == llava15.image_processor.to_dict()["crop_size"]
    case = llava15.cases()[0]
    inputs = llava15.inputs(case)
    with torch.no_grad():
        before, after = model(**inputs).logits, again(**inputs).logits
    assert torch.equal(before, after)
    torch.testing.assert_close(
        after[0, -1, : len(case["logits_last"])], torch.tensor(case["logits_last"]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("source", ["saved", "shipped"])
def test_transformers_own_class_refuses_our_layout(tmp_path, llava15, source):
    """It would take what it does not find for the default, a random model of seven billion weights."""
    if source == "saved":
        llava15.model.save_pretrained(tmp_path)
        folder = tmp_path
    else:
        folder = PARITY15.parents[2] / "playground" / "checkpoints" / "llava-shapes-v1"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llava_llama"
    with pytest.raises(Exception, match="this is LLaVA's own layout; python -m llava.model.convert"):
        LlavaForConditionalGeneration.from_pretrained(folder)
    # Known here, for this package registers it, but as a language model.
    assert AutoConfig.from_pretrained(folder).model_type == "llava_llama"
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_the_template_is_left_in_the_config(checkpoint):
    assert load(checkpoint)[1].config.conv_mode is None
    assert load(checkpoint, conv_mode="plain")[1].config.conv_mode == "plain"


@pytest.mark.parametrize("flag", ["use_fast_v", "use_hmap_v", "use_token_condensation"])
def test_a_method_may_get_its_numbers_after_loading(checkpoint, llava15, flag):
    """As the documents do; nothing is silent when they never come."""
    _, model, *_ = load(checkpoint, **{flag: True})
    inputs = llava15.inputs(llava15.cases()[0])
    with pytest.raises(ValueError, match="fast_v_attention_rank|hmap_v_attn_txt_layer"):
        model.generate(**inputs, max_new_tokens=1)
    if flag == "use_fast_v":
        model.config.fast_v_attention_rank = 9
    else:
        model.config.hmap_v_attn_txt_layer, model.config.hmap_v_attn_txt_rank = 2, 9
    model.generate(**inputs, max_new_tokens=1)
    assert model.get_model().last_visual_per_layer[-1].tolist() == [9]


@pytest.mark.parametrize(
    "knobs",
    [
        {"use_fast_v": True, "fast_v_attention_rank": 9, "fast_v_agg_layer": 99},
        {"use_hmap_v": True, "use_fast_v": True},
    ],
)
def test_numbers_that_cannot_be_are_refused_at_loading(checkpoint, knobs):
    with pytest.raises(ValueError, match="99|use_fast_v and use_hmap_v"):
        load(checkpoint, **knobs)


def test_loading_condensation_reports_nothing_missing(checkpoint, caplog, capfd):
    knobs = {"use_token_condensation": True, "condensation_layers": [2], "condensation_ranks": [9]}
    _, model, *_ = load(checkpoint, **knobs)
    assert any("condensation" in name for name in model.state_dict())
    assert "MISSING" not in caplog.text + "".join(capfd.readouterr())

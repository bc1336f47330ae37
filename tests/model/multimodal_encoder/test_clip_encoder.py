"""The tower's features against CLIPVisionModel's own hidden states."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel

from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from tests.conftest import PARITY15

FOLDER = PARITY15 / "checkpoint" / "clip-tiny-patch14-336"


def settings(**more):
    return SimpleNamespace(**{"mm_vision_tower": str(FOLDER), "mm_vision_select_layer": -2, **more})


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 336, 336, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def hidden(images):
    with torch.no_grad():
        return CLIPVisionModel.from_pretrained(FOLDER)(images, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_features_are_the_selected_layer_without_the_class_token(images, hidden, layer):
    tower = build_vision_tower(settings(mm_vision_select_layer=layer))
    assert torch.equal(tower(images), hidden[layer][:, 1:])
    assert torch.equal(tower.encode(images).hidden[:, 0], hidden[layer][:, 0])


def test_cls_patch_keeps_it(images, hidden):
    tower = build_vision_tower(settings(mm_vision_select_feature="cls_patch"))
    assert torch.equal(tower(images), hidden[-2])


def test_a_list_is_encoded_one_by_one(images, hidden):
    parts = build_vision_tower(settings())(list(images))
    assert [tuple(part.shape) for part in parts] == [(1, 576, 32)] * 2
    torch.testing.assert_close(torch.cat(parts), hidden[-2][:, 1:])


def test_properties():
    tower = build_vision_tower(settings(), delay_load=True)
    assert not tower.is_loaded and not list(tower.parameters())
    assert (tower.hidden_size, tower.num_patches, tower.num_patches_per_side) == (32, 576, 24)
    tower.load_model()
    assert tower.is_loaded and tower.dtype == torch.float32 and tower.device.type == "cpu"
    assert tower.dummy_feature.shape == (1, 32) and not tower.dummy_feature.any()
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower.train().vision_tower.training
    assert tower.image_processor.crop_size["height"] == 336


def test_a_whole_clip_gives_its_vision_part(tmp_path):
    torch.manual_seed(0)
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**part, "image_size": 28, "patch_size": 14}
    whole = CLIPModel(CLIPConfig(text_config=part, vision_config=vision, projection_dim=16)).eval()
    whole.save_pretrained(tmp_path)
    tower = build_vision_tower(settings(mm_vision_tower=str(tmp_path)))
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        expected = whole.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.equal(tower(pixels), expected) and tower.num_patches == 4


def test_output_has_the_dtype_of_the_input(images):
    assert build_vision_tower(settings())(images.bfloat16()).dtype == torch.bfloat16


def test_a_processor_is_found_or_made_for_the_towers_size(tmp_path, caplog):
    tower = CLIPVisionTower("nowhere", SimpleNamespace(mm_vision_select_layer=-2, mm_vision_config=tower_config()))
    tower.load_model(inside=(tmp_path,))
    assert tower.image_processor.crop_size["height"] == 336 and "no preprocessor_config.json" in caplog.text


def tower_config():
    from llava.model.multimodal_encoder.opening import load_vision_config

    return load_vision_config(FOLDER).to_dict()


def test_errors_name_what_is_wrong(images, tmp_path):
    with pytest.raises(ValueError, match="mm_vision_tower"):
        build_vision_tower(SimpleNamespace(mm_vision_select_layer=-2))
    with pytest.raises(ValueError, match="'pooled'.*'cls_patch'"):
        build_vision_tower(settings(mm_vision_select_feature="pooled"))
    with pytest.raises(FileNotFoundError, match="vision tower '/no/tower' not found"):
        build_vision_tower(settings(mm_vision_tower="/no/tower"))
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        (tmp_path / "config.json").write_text((FOLDER / "config.json").read_text())
        build_vision_tower(settings(mm_vision_tower=str(tmp_path)))
    with pytest.raises(ValueError, match="load_model"):
        build_vision_tower(settings(), delay_load=True)(images)
    with pytest.raises(ValueError, match="336, 336"):
        build_vision_tower(settings())(images[:, :, :224])


def test_a_tower_that_is_not_loaded_says_so():
    tower = build_vision_tower(settings(), delay_load=True)
    for name in ("dtype", "device", "dummy_feature"):
        with pytest.raises(ValueError, match="is not loaded; call load_model"):
            getattr(tower, name)


def test_a_tower_beside_its_checkpoint_is_found_by_transformers_own_way_of_loading(images):
    """`from_pretrained`, then `load_model()`, as LLaVA's callers do; the folder is relative to the checkpoint."""
    model = LlavaLlamaForCausalLM.from_pretrained(PARITY15 / "checkpoint")
    with pytest.raises(ValueError, match="is not loaded; call load_model"):
        model.generate(torch.tensor([[1, -200]]), images=images[:1], max_new_tokens=1)
    model.get_vision_tower().load_model(device_map="auto")
    assert model.generate(torch.tensor([[1, -200]]), images=images[:1], max_new_tokens=1).shape == (1, 1)


@pytest.mark.parametrize("layer", [-5, 4, 99])
def test_a_layer_that_the_tower_has_not(layer):
    with pytest.raises(
        ValueError, match=f"mm_vision_select_layer={layer}, but the vision tower has 3 layers; give -4 to 3"
    ):
        build_vision_tower(settings(mm_vision_select_layer=layer))

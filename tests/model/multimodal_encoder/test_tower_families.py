"""CLIP, SigLIP and DINOv2 as LLaVA's tower, each against transformers' own model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    LlavaOnevisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava.mm_utils import get_anyres_image_grid_shape, process_images
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_encoder.processor import picture_side
from llava.model.multimodal_encoder.tower import VisionTower
from llava.model.vision.anyres import CropLayout, most_crops
from llava.model.vision.merging import MergingTower
from llava.model.vision.seen import SeenCrops
from llava.reduction import plan_from
from llava.reduction.cost import tower_flops
from tests.families import write_llava, write_tower
from tests.tower import SIDE

OWN = {
    "clip": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "dinov2": Dinov2Model,
    "registers": Dinov2WithRegistersModel,
}
FRONT = {"clip": 1, "siglip": 0, "dinov2": 1, "registers": 4}
CROPS = torch.arange(2)


@pytest.fixture(scope="module", params=list(OWN))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp(kind), kind)


def tower_in(folder: Path, layer: int = -2, feature: str = "patch") -> VisionTower:
    return CLIPVisionTower(str(folder), SimpleNamespace(mm_vision_select_layer=layer, mm_vision_select_feature=feature))


@pytest.fixture(scope="module")
def tower(folder):
    return tower_in(folder)


@pytest.fixture(scope="module")
def own(folder, kind):
    return OWN[kind].from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def shown(own, pixels):
    with torch.no_grad():
        return own(pixels, output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize("layer", [-2, 0, 3])
def test_features_are_the_patches_of_the_selected_layer(folder, kind, shown, pixels, layer):
    front, tower = FRONT[kind], tower_in(folder, layer)
    assert tower.front == front and tower.num_patches == 64
    torch.testing.assert_close(tower(pixels), shown.hidden_states[layer][:, front:], rtol=0, atol=1e-5)
    whole = tower_in(folder, layer, "cls_patch")(pixels)
    assert whole.shape[1] == 64 + (kind != "siglip")
    torch.testing.assert_close(whole[:, -64:], shown.hidden_states[layer][:, front:], rtol=0, atol=1e-5)
    assert tower.vision_tower.training is False and not any(w.requires_grad for w in tower.parameters())


def seen(tower: VisionTower, pixels, layers=(0, -2)) -> SeenCrops:
    out = tower.encode(pixels, watched={tower.layer_number(layer) for layer in layers})
    return SeenCrops(tower, out.entered, out.hidden)


@pytest.mark.parametrize("layer", [0, -2])
def test_evidence_is_the_eager_attention(tower, kind, shown, pixels, layer):
    maps, front, evidence = shown.attentions[layer], FRONT[kind], seen(tower, pixels)
    patches = maps[:, :, front:, front:]
    torch.testing.assert_close(evidence.mean_attention(CROPS, layer), patches.mean(2), rtol=0, atol=1e-5)
    assert evidence.keys(CROPS, layer).shape == (2, 4, 64, 8)
    if kind == "siglip":
        for ask in (lambda: evidence.cls_attention(CROPS, layer), lambda: evidence.cls_projections(CROPS, layer)):
            with pytest.raises(ValueError, match="SigLIP, which has no class token; .*saliency=mean_attention"):
                ask()
        with pytest.raises(ValueError, match="no class token"):
            evidence.cls_row(CROPS)
    else:
        row = torch.cat([maps[:, :, 0, :1], maps[:, :, 0, front:]], -1)
        torch.testing.assert_close(evidence.cls_attention(CROPS, layer), row, rtol=0, atol=1e-5)
        torch.testing.assert_close(evidence.cls_row(CROPS), shown.hidden_states[-2][:, 0], rtol=0, atol=1e-5)
    if kind != "clip":
        with pytest.raises(ValueError, match="CLIP's text tower.*relevance=embeddings"):
            evidence.clip_patches(CROPS)


def test_merging_nothing_is_the_tower_itself_and_something_stands_for_all(tower, kind, pixels):
    (whole,) = plan_from("tome:64")
    (half,) = plan_from("tome:20")
    if kind == "registers":
        with pytest.raises(ValueError, match="3 registers.*site='features'"):
            MergingTower(whole, 2, 64, tower)
        return
    run = MergingTower(whole, 2, 64, tower)
    torch.testing.assert_close(tower.encode(pixels, runner=run).features, tower(pixels), rtol=0, atol=1e-5)
    run = MergingTower(half, 2, 64, tower)
    out = tower.encode(pixels, runner=run)
    assert out.features.shape[1] == 20 and run.origins.shape == (2, 20)
    assert run.sizes.sum(1).tolist() == [64.0 + FRONT[kind]] * 2
    assert all(len(set(row)) == 20 and 0 <= min(row) <= max(row) < 64 for row in run.origins.tolist())


def test_its_cost_is_what_torch_counts(folder, pixels):
    tower = tower_in(folder)
    tower.vision_tower.set_attn_implementation("eager")  # torch counts no fused attention on the CPU
    with FlopCounterMode(display=False) as counter:
        tower(pixels)
    weights = tower.family.mlp_weights(tower.config)
    rows = [tower.front + 64] * tower.layers_run
    assert tower_flops(tower.config, 2, rows, tower.front, weights) == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )


def test_siglips_published_geometry():
    """Patch 14 at 384 pixels: 27 by 27 patches, no class token."""
    config = SiglipVisionConfig(
        image_size=384, patch_size=14, hidden_size=8, intermediate_size=8, num_hidden_layers=27, num_attention_heads=1
    )
    args = SimpleNamespace(mm_vision_select_layer=-2, mm_vision_config=config.to_dict())
    tower = VisionTower("google/siglip-so400m-patch14-384", args)
    assert (tower.num_patches_per_side, tower.num_patches, tower.layers_run) == (27, 729, 26)
    assert tower(torch.zeros(1, 3, 384, 384)).shape == (1, 729, 8)
    names = [name for name, _ in tower.named_parameters()]
    assert not any(".head." in name or ".layers.26." in name for name in names), "what no feature needs is not kept"
    assert "vision_tower.encoder.layers.25.mlp.fc2.weight" in names


def picture(size=(40, 32)) -> Image.Image:
    generator = torch.Generator().manual_seed(3)
    return Image.fromarray(torch.randint(0, 256, (*size[::-1], 3), generator=generator, dtype=torch.uint8).numpy())


def answer(folder: Path, plan=None, **more):
    tokenizer, model, processor, _ = load_pretrained_model(folder, device="cpu", **more)
    pixels = process_images([picture()], processor, model.config)
    ids = torch.tensor([[5, 6, -200, 7, 8]])
    with torch.no_grad():
        return model, model(ids, images=pixels, image_sizes=[(40, 32)], reduction=plan).logits


PLANS = [
    "fastv@1:25%", "divprune:4", "pyramiddrop", "fastervlm:8,saliency=mean_attention", "cdpruner:8,relevance=embeddings",
    "grid:16", "downsample:16",
]  # fmt: skip


@pytest.fixture(scope="module")
def llava(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"llava-{kind}")
    write_tower(folder / "tower", kind)
    return write_llava(folder, "qwen", "tower")


@pytest.mark.parametrize("plan", PLANS)
def test_plans_run_on_every_tower(llava, kind, plan):
    model, logits = answer(llava, plan)
    assert logits.isfinite().all()
    tower = model.get_vision_tower()
    assert model.last_cost()[0].tower_flops > 0 and tower.family.name.lower().startswith(
        kind[:4].replace("regi", "dino")
    )


@pytest.mark.parametrize("plan", ["fastervlm:8", "visionzip:12", "prumerge:8", "vispruner:8"])
def test_the_class_token_is_read_or_its_substitute_named(llava, kind, plan):
    if kind == "siglip":
        with pytest.raises(ValueError, match=r"reads the class token, but .*SigLIP.*saliency=mean_attention"):
            answer(llava, plan)
    else:
        assert answer(llava, plan)[1].isfinite().all()


def test_anyres_and_merging_in_the_tower(kind, tmp_path):
    write_tower(tmp_path / "tower", kind)
    folder = write_llava(tmp_path, "mistral", "tower", anyres=True)
    model, logits = answer(folder)
    assert model._last_vision.crops == [[3]] and model._last_vision.projector_rows == [64] * 3
    assert model._last_vision.tower_rows == [64 + FRONT[kind]] * 3
    if kind != "registers":
        model, _ = answer(folder, "tome:16,proportional=false")
        assert model._last_vision.projector_rows == [16] * 3


def test_saved_with_its_tower_and_loaded_again(llava, tmp_path):
    model, logits = answer(llava)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llava / name).read_bytes())
    again, same = answer(tmp_path)
    torch.testing.assert_close(same, logits, rtol=0, atol=1e-6)
    assert again.get_vision_tower().family is model.get_vision_tower().family


def test_weights_carried_as_llava_next_saves_them(tmp_path):
    """SigLIP without its last layer and its head, under `vision_model.`; and with all of it, as other programs save."""
    tower = write_tower(tmp_path / "tower", "siglip")
    folder = write_llava(tmp_path, "qwen", "tower")
    _, expected = answer(folder)
    state = load_file(folder / "model.safetensors")
    held = {name: w for name, w in load_file(tower / "model.safetensors").items() if name.startswith("vision_model.")}
    (tower / "model.safetensors").unlink()
    prefix = "model.vision_tower.vision_tower."
    for cut in (True, False):
        carried = {
            prefix + name: w for name, w in held.items() if not (cut and (".layers.3." in name or ".head." in name))
        }
        assert len(carried) < len(held) or not cut
        save_file(state | carried, folder / "model.safetensors", {"format": "pt"})
        _, logits = answer(folder)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def test_dinov2_reads_the_size_its_processor_makes(tmp_path, pixels):
    folder = write_tower(tmp_path, "dinov2")
    file = folder / "preprocessor_config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"crop_size": {"height": 24, "width": 24}}))
    tower = tower_in(folder)
    assert picture_side(str(folder), (), tower.config) == tower.image_size == 24
    assert tower.num_patches == 36 and tower(torch.zeros(1, 3, 24, 24)).shape == (1, 36, 32)
    with pytest.raises(ValueError, match=r"\(n, 3, 24, 24\)"):
        tower(pixels)
    file.write_text(json.dumps(raw | {"crop_size": {"height": 22, "width": 22}}))
    with pytest.raises(ValueError, match="22x22 pixels, but the vision tower reads squares of whole patches of 4"):
        tower_in(folder)


def test_a_tower_of_another_family_is_named(tmp_path):
    folder = write_tower(tmp_path, "dinov2")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"model_type": "convnext"}))
    with pytest.raises(
        ValueError, match="'convnext' is no vision tower that is known; there are CLIP .*SigLIP .*DINOv2"
    ):
        tower_in(folder)


@pytest.mark.parametrize("size", [(40, 32), (128, 40), (96, 96), (30, 150), (200, 170)])
def test_a_large_grid_is_shrunk_as_transformers_onevision_does(size):
    """`anyres_max_2` on crops of 8 x 8 patches, against the packing of transformers' own LLaVA-OneVision."""
    grids = [[SIDE * across, SIDE * down] for across in (1, 2, 3, 4) for down in (1, 2, 3, 4)]
    across, down = get_anyres_image_grid_shape(size, grids, SIDE)
    crops = torch.randn(1 + across * down, 64, 16, generator=torch.Generator().manual_seed(1))
    newline = torch.randn(16)
    layout = CropLayout("spatial_unpad", 8, SIDE, grids, newline, most_crops("anyres_max_2"))
    own = SimpleNamespace(
        config=SimpleNamespace(
            vision_config=SimpleNamespace(image_size=SIDE, patch_size=SIDE // 8),
            image_grid_pinpoints=[[height, width] for width, height in grids],
        )
    )
    (expected,), _ = LlavaOnevisionModel.pack_image_features(
        own, [crops], torch.tensor([size[::-1]]), newline, vision_aspect_ratio="anyres_max_2"
    )
    merged = layout.merge(list(crops), size)
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)
    assert len(merged) <= 64 + 2 * 64 * 1.1**2 + 8 * 4


def test_a_checkpoint_with_anyres_max(tmp_path):
    write_tower(tmp_path / "tower", "siglip")
    folder = write_llava(tmp_path, "qwen", "tower", anyres=True, image_aspect_ratio="anyres_max_1")
    model, logits = answer(folder, "divprune:40")
    assert model._last_vision.crops == [[3]] and model._last_vision.projector_rows == [64] * 3
    _, whole = answer(folder)
    _, larger = answer(write_llava(tmp_path, "qwen", "tower", anyres=True))
    assert whole.shape[1] < larger.shape[1] and logits.shape[1] < whole.shape[1]
    for field, value in (("image_aspect_ratio", "highres"), ("mm_resampler_type", "spatial_pool")):
        bad = write_llava(tmp_path, "qwen", "tower", **{field: value})
        with pytest.raises(ValueError, match=f"{field}='?\"?{value}.* is not supported"):
            answer(bad)

"""A tower of several scales against plain loops over transformers' own model, alone and in a whole LLaVA."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionModel

from llava.cost import Prompt, estimates, from_config, measure
from llava.eval.ask.opening import tokens_of_picture
from llava.eval.ask.pricing import Pricing
from llava.mm_utils import process_images
from llava.model.builder import load_pretrained_model, read_config
from llava.model.convert import to_llava_hf
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower, CLIPVisionTowerS2
from llava.model.multimodal_encoder.scales import squares, stated_scales
from llava.model.vision.seen import SeenCrops
from llava.reduction import plan_from
from tests.families import write_llava, write_tower
from tests.tower import PATCH, SIDE, WIDTH, write_clip

SCALES, TIMES = "32,64,96", (1, 2, 3)  # 8 x 8 patches at the smallest
LARGEST, GRID, WIDE = 3 * SIDE, SIDE // PATCH, 3 * WIDTH
CROPS = torch.arange(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def settings(folder: Path, **more) -> SimpleNamespace:
    own = {"mm_vision_tower": str(folder), "mm_vision_select_layer": -2, "s2": True, "s2_scales": SCALES}
    return SimpleNamespace(**own | more)


@pytest.fixture(scope="module")
def tower(folder) -> CLIPVisionTowerS2:
    return build_vision_tower(settings(folder))


@pytest.fixture(scope="module")
def plain(folder) -> CLIPVisionTower:
    return build_vision_tower(settings(folder, s2=False))


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, LARGEST, LARGEST, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------------------ features


def by_loops(model, picture, scale: int):
    """One picture (3, L, L) at one scale, square by square and patch by patch: (N, V)."""
    times = scale // SIDE
    enlarged = F.interpolate(picture[None], size=scale, mode="bicubic")
    grid = torch.empty(times * GRID, times * GRID, WIDTH)
    for row in range(times):
        for column in range(times):
            square = enlarged[:, :, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            with torch.no_grad():
                patches = model(square, output_hidden_states=True).hidden_states[-2][0, 1:]
            for number, patch in enumerate(patches):
                grid[row * GRID + number // GRID, column * GRID + number % GRID] = patch
    return torch.stack(
        [
            grid[row * times : (row + 1) * times, column * times : (column + 1) * times].mean((0, 1))
            for row in range(GRID)
            for column in range(GRID)
        ]
    )


def test_features_are_those_of_loops_over_scales_and_squares(folder, tower, pixels):
    model = CLIPVisionModel.from_pretrained(folder).eval()
    wanted = [torch.cat([by_loops(model, picture, times * SIDE) for times in TIMES], dim=-1) for picture in pixels]
    torch.testing.assert_close(tower(pixels), torch.stack(wanted), rtol=0, atol=1e-5)


def test_a_constant_picture_is_the_same_square_everywhere(tower, plain):
    colours = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -0.5]])[:, :, None, None]
    own = plain(colours.expand(-1, -1, SIDE, SIDE)).unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
    wanted = [F.avg_pool2d(own.repeat(1, 1, times, times), times).flatten(2).transpose(1, 2) for times in TIMES]
    features = tower(colours.expand(-1, -1, LARGEST, LARGEST))
    torch.testing.assert_close(features, torch.cat(wanted, dim=-1), rtol=0, atol=1e-4)


def test_one_scale_is_the_plain_tower(folder, plain, pixels):
    pixels = pixels[..., :SIDE, :SIDE]
    assert torch.equal(build_vision_tower(settings(folder, s2_scales="32"))(pixels), plain(pixels))


def test_a_batch_is_each_alone_in_the_type_of_the_images(tower, pixels):
    together = tower(pixels)
    for image, alone in zip(together, tower(list(pixels)), strict=True):
        torch.testing.assert_close(image[None], alone, rtol=0, atol=1e-5)
    assert tower(pixels.bfloat16()).dtype == torch.bfloat16


def test_its_sizes(folder, tower):
    assert isinstance(tower, CLIPVisionTowerS2)
    assert (tower.hidden_size, tower.num_patches, tower.num_patches_per_side) == (WIDE, GRID**2, GRID)
    assert (tower.image_size, tower.passes) == (LARGEST, 14) and tower.dummy_feature.shape == (1, WIDE)
    processor = tower.image_processor
    assert processor.size["shortest_edge"] == processor.crop_size["height"] == processor.crop_size["width"] == LARGEST
    unread = build_vision_tower(settings(folder), delay_load=True)
    assert not unread.is_loaded and unread.hidden_size == WIDE
    assert stated_scales(SimpleNamespace(s2=True, s2_scales=None)) == (336, 672, 1008)
    assert stated_scales(SimpleNamespace(s2=True, s2_scales="1008, 336,672")) == (336, 672, 1008)
    assert stated_scales(SimpleNamespace(s2=False, s2_scales="nonsense")) == ()


@pytest.mark.parametrize("layer", [0, -2])
def test_evidence_is_that_of_the_whole_picture(tower, plain, pixels, layer):
    small = F.interpolate(pixels, size=SIDE, mode="bicubic")
    evidence = []
    for each, images in ((tower, pixels), (plain, small)):
        out = each.encode(images, watched={each.layer_number(layer)})
        evidence.append(SeenCrops(each, out.entered, out.hidden, ["what is red ?"] * 2))
    ours, whole = evidence
    for read in ("cls_attention", "mean_attention", "keys"):
        assert torch.equal(getattr(ours, read)(CROPS, layer), getattr(whole, read)(CROPS, layer)), read
    assert torch.equal(ours.cls_row(CROPS), whole.cls_row(CROPS))
    assert torch.equal(ours.clip_patches(CROPS), whole.clip_patches(CROPS))
    for own, other in zip(ours.cls_projections(CROPS, layer), whole.cls_projections(CROPS, layer), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ("32,80", "multiples of the smallest, 32"),
        ("32,64,64", "must name each scale once"),
        ("16,32,64", "has 16 as its smallest, but the vision tower reads pictures of 32 pixels; give 32"),
        ("32,large", "must be a text of whole numbers"),
        ("32,0", "whole numbers of at least 1"),
        ("32,,64", "whole numbers"),
        ([32, 64], "whole numbers"),
    ],
)
def test_scales_that_cannot_be(folder, scales, message):
    with pytest.raises(ValueError, match=f"s2_scales=.*{message}"):
        build_vision_tower(settings(folder, s2_scales=scales))


def test_what_the_tower_refuses(folder, tower, pixels):
    for images in (pixels[..., :SIDE, :SIDE], pixels[0]):
        for resized in (False, True):
            with pytest.raises(ValueError, match=r"give \(n, 3, 96, 96\)"):
                tower(images, resized=resized)
    with pytest.raises(ValueError, match="mm_vision_select_feature='cls_patch' has no place"):
        build_vision_tower(settings(folder, mm_vision_select_feature="cls_patch"))
    with pytest.raises(ValueError, match="runner=None"):
        tower.encode(pixels, runner=lambda number, layer, hidden: hidden)


@pytest.mark.parametrize("kind", ["siglip", "dinov2", "registers"])
def test_towers_of_other_families(tmp_path, pixels, kind):
    folder = write_tower(tmp_path, kind)
    features = build_vision_tower(settings(folder))(pixels)
    small = F.interpolate(pixels, size=SIDE, mode="bicubic")
    assert features.shape == (2, GRID**2, WIDE)
    assert torch.equal(features[..., :WIDTH], build_vision_tower(settings(folder, s2=False))(small))
    square = {"height": LARGEST, "width": LARGEST}
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": square, "crop_size": square}))
    assert build_vision_tower(settings(folder)).num_patches == tokens_of_picture(folder, settings(folder)) == GRID**2


# ------------------------------------------------------------------------------------------------------------- a LLaVA


def written(folder: Path, **fields) -> Path:
    return write_llava(folder, "qwen", **{"s2": True, "s2_scales": SCALES, "mm_hidden_size": WIDE} | fields)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("llava"))


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    noise = torch.Generator().manual_seed(3)
    return [
        Image.fromarray(torch.randint(0, 256, (high, wide, 3), generator=noise, dtype=torch.uint8).numpy())
        for wide, high in sizes
    ]


IDS = torch.tensor([[5, 6, -200, 7, 8], [9, 10, -200, 11, 12]])
SIZES = [(40, 32), (120, 200)]


@pytest.fixture(scope="module")
def loaded(checkpoint):
    _, model, processor, _ = load_pretrained_model(checkpoint, device="cpu")
    return model, process_images(pictures(*SIZES), processor, model.config)


def logits(model, ids, images, plan=None, **more):
    with torch.no_grad():
        return model(ids, images=images, reduction=plan, **more).logits[:, -1]


def test_pictures_are_of_the_largest_size_and_tokens_of_the_smallest(checkpoint, loaded):
    model, images = loaded
    assert images.shape == (2, 3, LARGEST, LARGEST)
    assert model.visual_tokens(images) == [GRID**2] * 2
    assert [raw.shape for raw in model.encode_raw(images)] == [(GRID**2, WIDE)] * 2
    tower = model.get_vision_tower()
    assert torch.equal(model.encode_images(images), model.model.mm_projector(tower(images)))
    assert tokens_of_picture(checkpoint, read_config(checkpoint)) == GRID**2


PLANS = ["", "fastv@1:16", "divprune:16", "fastervlm:16", "visionzip:16", "prumerge:16", "cdpruner:16", "grid:16"]


@pytest.mark.parametrize("plan", PLANS)
def test_a_batch_is_each_row_alone(loaded, plan):
    model, images = loaded
    together = logits(model, IDS, images, plan)
    for row in range(2):
        alone = logits(model, IDS[row : row + 1], images[row : row + 1], plan)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-4)


def test_drop_equals_mask_and_answers_are_generated(loaded):
    model, images = loaded
    dropped, masked = (logits(model, IDS, images, f"fastv@1:16,place={place}") for place in ("drop", "mask"))
    torch.testing.assert_close(dropped, masked, rtol=0, atol=1e-4)
    raw = model.encode_raw(images)
    answers = [
        model.generate(IDS, max_new_tokens=4, do_sample=False, reduction="divprune:16", **given)
        for given in ({"images": images}, {"raw_vision_features": raw})
    ]
    assert torch.equal(*answers) and answers[0].shape[0] == 2


@pytest.mark.parametrize("plan", [*PLANS, "fastervlm:16,saliency=mean_attention"])
def test_what_is_counted_before_is_what_was_run(checkpoint, loaded, plan):
    model, images = loaded
    text = IDS.shape[1] - 1
    logits(model, IDS[:1], images[:1], plan)
    cost = model.last_cost()[0]
    assert model._last_vision.patches == GRID**2
    dense, under = estimates(from_config(checkpoint), Prompt((SIZES[0],), text=text), [plan], bytes_per_number=4)
    counted = under.cost
    assert counted.tower_flops == cost.tower_flops > 0 and counted.projector_flops == cost.projector_flops > 0
    assert counted.visual_per_layer == cost.visual_per_layer and counted.llm_flops == cost.llm_flops
    if plan != "prumerge:16":  # adaptive
        assert counted.selector_flops == pytest.approx(cost.selector_flops, rel=0.2)
    share = (counted.llm_flops + counted.selector_flops) / dense.cost.llm_flops
    assert Pricing(model.config, GRID**2, text).flops(plan_from(plan)) == pytest.approx(share)


def test_its_cost_is_what_torch_counts(checkpoint):
    _, model, processor, _ = load_pretrained_model(checkpoint, device="cpu")
    images = process_images(pictures((40, 32)), processor, model.config)
    logits(model, IDS[:1], images)
    tower = model.get_vision_tower()
    tower.vision_tower.set_attn_implementation("eager")  # torch counts no fused attention on the CPU
    with FlopCounterMode(display=False) as counter:
        tower(images)
    assert model.last_cost()[0].tower_flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert squares(stated_scales(model.config)) == 14


def test_measuring_runs_the_tower_on_every_square(checkpoint, monkeypatch):
    monkeypatch.setattr(measure, "median_seconds", lambda run, repeats, device: 0.5)
    host = from_config(checkpoint)
    seconds = measure._tower_seconds(host, Prompt(((40, 32),)), torch.device("cpu"), torch.float32, 1, None)
    assert seconds == 14 * 0.5


@pytest.mark.parametrize("plan", ["tome:16", "downsample:16"])
def test_stages_that_change_what_the_tower_computes_are_refused(checkpoint, loaded, plan):
    model, images = loaded
    runs = [
        lambda: logits(model, IDS, images, plan),
        lambda: estimates(from_config(checkpoint), Prompt(((40, 32),)), [plan]),
    ]
    if plan.startswith("downsample"):
        runs.append(lambda: model.encode_raw(images, plan))
    for run in runs:
        with pytest.raises(ValueError, match="s2=true.*take a method at site='features', such as divprune"):
            run()


def test_saved_with_its_tower_and_loaded_again(loaded, checkpoint, tmp_path):
    model, images = loaded
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    _, again, processor, _ = load_pretrained_model(tmp_path, device="cpu")
    assert isinstance(again.get_vision_tower(), CLIPVisionTowerS2) and again.config.mm_vision_config
    assert torch.equal(process_images(pictures(*SIZES), processor, again.config), images)
    assert torch.equal(logits(again, IDS, images), logits(model, IDS, images))
    estimates(from_config(tmp_path), Prompt(((40, 32),)), [""])
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"s2_scales": "16,32,48"}))
    with pytest.raises(ValueError, match="s2_scales=16,32,48 has 16 as its smallest"):
        load_pretrained_model(tmp_path, device="cpu")


def test_crops_are_of_the_largest_size(tmp_path):
    grids = [[LARGEST, 2 * LARGEST], [2 * LARGEST, LARGEST]]
    folder = written(tmp_path, anyres=True, image_grid_pinpoints=grids)
    _, model, processor, _ = load_pretrained_model(folder, device="cpu")
    images = process_images(pictures((200, 90)), processor, model.config)
    assert images.shape == (1, 3, 3, LARGEST, LARGEST)
    assert logits(model, IDS[:1], images, "fastervlm:16", image_sizes=[(200, 90)]).isfinite().all()
    logits(model, IDS[:1], images, image_sizes=[(200, 90)])
    cost = model.last_cost()[0]
    counted = estimates(from_config(folder), Prompt(((200, 90),), text=4), [""], bytes_per_number=4)[1].cost
    assert counted.tower_flops == cost.tower_flops and model._last_vision.projector_rows == [GRID**2] * 3
    written(tmp_path, anyres=True)
    with pytest.raises(ValueError, match="image_grid_pinpoints=.* must be multiples of 96, the largest"):
        load_pretrained_model(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"s2_scales": "32,64"}, f"mm_hidden_size={WIDE}, but .* at the scales 32,64 are {2 * WIDTH} wide"),
        ({"s2_scales": "32,80"}, "config.json.*s2_scales='32,80'.*multiples"),
        ({"s2_scales": "16,32,48"}, "s2_scales=16,32,48 has 16 as its smallest"),
        ({"s2_scales": 32}, "s2_scales=32 must be a text"),
        ({"s2": "yes"}, "s2='yes' must be true or false"),
        ({"s2": False}, f"mm_hidden_size={WIDE}, but .* are {WIDTH} wide"),
    ],
)
def test_configs_that_cannot_be(checkpoint, tmp_path, fields, message):
    for file in checkpoint.iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").write_text(json.dumps(json.loads((checkpoint / "config.json").read_text()) | fields))
    # Without weights: nothing of them is read.
    (tmp_path / "model.safetensors").unlink()
    save_file({"model.embed_tokens.weight": torch.zeros(1, 1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_pretrained_model(tmp_path, device="cpu")


def test_transformers_has_no_such_tower(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"3 scales \(s2=true\), which transformers' own classes cannot"):
        to_llava_hf(checkpoint, tmp_path / "converted")


# --------------------------------------------------------------------------------------- language models that are given one


@pytest.fixture
def language_model(checkpoint, tmp_path) -> Path:
    """The checkpoint without tower and projector."""
    folder = tmp_path / "language"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    text = {name: weight for name, weight in weights.items() if "mm_projector" not in name}
    save_file(text, folder / "model.safetensors", {"format": "pt"})
    raw = json.loads((checkpoint / "config.json").read_text())
    raw = {name: value for name, value in raw.items() if not name.startswith(("mm_", "s2", "image_"))}
    (folder / "config.json").write_text(json.dumps(raw | {"model_type": "qwen2"}))
    return folder


def test_a_projector_alone_is_put_on_its_base(checkpoint, loaded, language_model, tmp_path):
    folder = tmp_path / "projector"
    folder.mkdir()
    (folder / "tower").symlink_to(checkpoint / "tower")
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    torch.save({name: w for name, w in weights.items() if "mm_projector" in name}, folder / "mm_projector.bin")
    _, model, _, _ = load_pretrained_model(folder, language_model, device="cpu")
    assert torch.equal(logits(model, IDS, loaded[1]), logits(loaded[0], IDS, loaded[1]))


def test_a_lora_is_put_on_its_base(checkpoint, loaded, tmp_path):
    peft = pytest.importorskip("peft")
    _, model, _, _ = load_pretrained_model(checkpoint, device="cpu")
    model.config.save_pretrained(tmp_path)
    (tmp_path / "tower").symlink_to(checkpoint / "tower")
    rest = {f"base_model.model.{name}": w for name, w in model.state_dict().items() if "mm_projector" in name}
    torch.save({name: 2 * weight for name, weight in rest.items()}, tmp_path / "non_lora_trainables.bin")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r"model\.layers\.\d+\.self_attn\.q_proj"))
    wrapped.save_pretrained(tmp_path)
    _, merged, _, _ = load_pretrained_model(tmp_path, checkpoint, device="cpu")
    assert torch.equal(merged.get_vision_tower()(loaded[1]), loaded[0].get_vision_tower()(loaded[1]))
    weight = merged.model.mm_projector.state_dict()["0.weight"]
    assert torch.equal(weight, 2 * loaded[0].model.mm_projector.state_dict()["0.weight"]) and weight.shape[1] == WIDE


def test_training_gives_a_language_model_one(checkpoint, language_model, tmp_path):
    from llava.train.arguments import ModelArguments, TrainingArguments
    from llava.train.assembly import load_model

    args = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
    given = {"vision_tower": str(checkpoint / "tower"), "mm_projector_type": "mlp2x_gelu"}
    new = ModelArguments(str(language_model), s2=True, s2_scales=SCALES, **given)
    _, model, processor = load_model(new, args, {})
    assert processor.crop_size["height"] == LARGEST and model.config.mm_hidden_size == WIDE
    assert (model.config.s2, model.config.s2_scales) == (True, SCALES)
    assert model.model.mm_projector[0].in_features == WIDE
    with pytest.raises(ValueError, match=r"s2=False .* was trained at the scales \(32, 64, 96\); leave --s2"):
        load_model(ModelArguments(str(checkpoint), s2=False), args, {})
    _, _, processor = load_model(ModelArguments(str(checkpoint), s2=True, s2_scales=SCALES), args, {})
    assert processor.crop_size["height"] == LARGEST

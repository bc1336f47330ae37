"""Training the model of real parts: words are what patches are drawn to, a stopped run ends the same, what is shipped loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import process_images
from llava.model.builder import load_pretrained_model
from llava.things.build import build
from llava.things.build import main as build_main
from llava.things.merge import merge
from llava.things.training import align as alignment
from llava.things.training import curriculum, run
from llava.things.training.align import Patches, Words, align, measure, read_patches
from llava.things.training.curriculum import Stage, arguments, write_records
from llava.things.training.ship import finished_stages, ship
from llava.things.training.worded import draw_words, read_words
from llava.things.world import Conversations, Questions, patch_owner
from llava.train.data import read_records
from llava.train.train import parse
from tests.things.parts import write_parts
from tests.things.world.fake import fake_world

STAGES = (
    Stage("first", 8, 1, 2, asked=2, plan="pool@prompt:16", rate=1e-3, mix={"open": 1.0}, worded=True),
    Stage("second", 8, 2, 4, asked=2, plan=None, rate=1e-3),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return fake_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    language, tower, _, _ = write_parts(folder)
    return build(
        folder / "base", folder / "cache", (folder / "simple").as_uri(), language_part=language, tower_part=tower
    )


@pytest.fixture
def small(monkeypatch):
    """Two stages of eight pictures."""
    for module in (curriculum, run):
        monkeypatch.setattr(module, "CURRICULUM", STAGES)
    monkeypatch.setattr(run, "PICTURES", 3)
    monkeypatch.setattr(run, "STEPS", 2)
    monkeypatch.setattr(alignment, "SHARD", 2)


def made_patches(names: int = 6, pictures: int = 30, width: int = 16) -> tuple[Patches, Words]:
    """Features that tell name and place of a patch, and words of random embeddings."""
    torch.manual_seed(0)
    shown = torch.randint(0, names + 1, (pictures * 20,))
    places = torch.randint(0, 576, (pictures * 20,))
    kinds = torch.randn(names + 1, width)
    spread = torch.stack([places % 24, places // 24], dim=1) / 24
    patches = Patches(
        torch.cat([kinds[shown], spread], dim=1), shown, places, torch.arange(pictures).repeat_interleave(20)
    )
    return patches, Words(torch.randn(names + 1, 24), torch.randn(3, 24), torch.randn(3, 24))


def test_aligned_patches_lie_where_their_names_do():
    patches, words = made_patches()
    torch.manual_seed(1)
    projector = nn.Sequential(nn.Linear(18, 32), nn.GELU(), nn.Linear(32, 24))
    before = measure(projector, patches, words)
    after = align(projector, patches, words, steps=800)
    assert before["patch"] < 0.4 and before["cosine"] < 0.3
    assert after["patch"] > 0.95 and after["thing"] > 0.95 and after["background"] > 0.95 and after["cosine"] > 0.6
    size = projector(patches.features).square().mean() / words.names.square().mean()
    assert 0.7 < size < 1.5  # as large as an embedding


def test_measured_is_what_was_held_out():
    patches, words = made_patches()
    wrong = replace(patches, names=torch.where(patches.pictures >= 27, (patches.names + 1) % 7, patches.names))
    projector = nn.Sequential(nn.Linear(18, 32), nn.GELU(), nn.Linear(32, 24))
    assert align(projector, wrong, words, steps=800)["patch"] < 0.2


def test_patches_are_of_the_things_that_the_pictures_show(base, world, tmp_path, monkeypatch):
    monkeypatch.setattr(alignment, "SHARD", 2)
    _, model, image_processor, _ = load_pretrained_model(base, device="cpu")
    patches = read_patches(model, image_processor, world, tmp_path, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["patches-21-0-2.pt", "patches-21-2-3.pt"]
    for picture in range(3):
        scene = world.scene(alignment.SEED, picture)
        owner, own = patch_owner(scene).flatten(), patches.of(torch.tensor([picture]))
        for name, place in zip(own.names.tolist(), own.places.tolist()):
            item = owner[place]
            assert name == len(world.things) if item < 0 else world.things[name].name == scene.items[item].name
    monkeypatch.setattr(alignment, "_looked_at", None)  # what is on disk is not looked at again
    again = read_patches(model, image_processor, world, tmp_path, 3)
    assert all(torch.equal(one, other) for one, other in zip(vars(patches).values(), vars(again).values()))


def test_a_name_of_several_pieces_is_their_mean(world):
    pieces = {" sea lion": [1, 2], " crow": [3]}
    embeddings = torch.arange(10.0)[:, None].expand(10, 4)

    def tokenizer(text, add_special_tokens):
        return type("Encoded", (), {"input_ids": pieces.get(text, [0])})

    names = Words.of(world, tokenizer, embeddings).names
    numbered = [thing.name for thing in world.things]
    assert names[numbered.index("sea lion"), 0] == 1.5 and names[numbered.index("crow"), 0] == 3
    assert len(names) == len(numbered) + 1


def test_a_picture_of_words_is_read_as_the_projector_is_aligned_to_have_it(base, world):
    tokenizer, model, image_processor, _ = load_pretrained_model(base, device="cpu")
    scene = world.scene(1, 2, least=3, most=5)
    pixels = process_images([draw_words(scene, world)], image_processor, model.config)
    read_words(model, tokenizer, world)
    words = Words.of(world, tokenizer, model.get_input_embeddings().weight)
    numbered = [thing.name for thing in world.things]
    owner = patch_owner(scene)
    (read,) = model.encode_images(pixels)
    for row, column in ((0, 0), (23, 1), *zip(*(owner >= 0).nonzero())):
        shown = owner[row, column]
        name = words.names[-1] if shown < 0 else words.names[numbered.index(scene.items[shown].name)]
        place = words.columns[column * 3 // 24] + words.rows[row * 3 // 24]
        torch.testing.assert_close(read[row * 24 + column], name + alignment.PLACE * place)
    ids = torch.tensor([[5, IMAGE_TOKEN_INDEX, 7]])
    assert torch.equal(model.splice(ids, images=pixels).inputs_embeds[0, 1:577], read)
    crowded = replace(world, things=world.things * 60)
    assert len(crowded.things) > 255
    with pytest.raises(ValueError, match="do not fit into the 256 shades of a picture; give 255 or fewer"):
        draw_words(scene, crowded)


def test_records_are_single_questions_about_their_pictures(world, tmp_path, small):
    stage = STAGES[1]
    file = write_records(stage, world, tmp_path)
    records, conversations = read_records(file), Conversations(Questions(world))
    assert {record["image"] for record in records} == {f"{number:05d}.jpg" for number in range(stage.pictures)}
    assert all((tmp_path / record["image"]).is_file() for record in records)
    assert len({record["id"] for record in records}) == len(records)
    asked = [
        tuple(turn["value"].removeprefix("<image>\n") for turn in record["conversations"])
        for record in records
        if record["image"] == "00002.jpg"
    ]
    seed = (curriculum.SEED, 1, 2)
    scene = world.scene(*seed, least=2, most=4)
    rng = curriculum.np.random.default_rng((*seed, 2))
    assert asked == conversations.singly(scene, rng, 2, stage.mix)
    written = file.stat().st_mtime_ns
    assert write_records(stage, world, tmp_path) == file and file.stat().st_mtime_ns == written


def test_a_mix_asks_of_what_it_names(world):
    conversations, rng = Conversations(Questions(world)), curriculum.np.random.default_rng(0)
    scene = world.scene(1, 1, least=3, most=4)
    asked = [
        question for _ in range(20) for question, _ in conversations.about(scene, rng, 4, {"box": 0.5, "caption": 0.5})
    ]
    assert all(question.startswith(("Please provide", "Describe")) for question in asked)
    with pytest.raises(ValueError, match="mix has boxes; known are yes_no, open"):
        conversations.about(scene, rng, 4, {"boxes": 1.0})


def test_the_flags_of_every_stage_are_known(tmp_path):
    for stage in curriculum.CURRICULUM:
        flags = arguments(stage, tmp_path, tmp_path / "a.json", tmp_path / "out", None)
        _, _, args, knobs = parse(flags)
        assert args.learning_rate == stage.rate and knobs.get("reduction") == stage.plan


def test_a_stopped_training_ends_as_one_that_was_not_and_what_is_shipped_answers(base, world, tmp_path, small):
    whole = run.train_things(base, world, tmp_path / "whole", tmp_path / "shipped-lora")
    run.train_things(base, world, tmp_path / "stopped", tmp_path / "first-lora", until="first")
    stages = tmp_path / "whole/stages", tmp_path / "stopped/stages"
    (tmp_path / "first-lora/stages.json").unlink()  # as if it had been stopped before it was shipped
    run.train_things(base, world, tmp_path / "stopped", tmp_path / "first-lora")
    one, other = (load_file(folder / "second/adapter_model.safetensors") for folder in stages)
    assert one and all(torch.equal(one[name], other[name]) for name in one)
    assert any(tensor.abs().max() > 0 for name, tensor in one.items() if "lora_B" in name)

    shipped = whole
    assert {tensor.dtype for tensor in load_file(shipped / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((shipped / "config.json").read_text())["reduction"] is None
    _, learnt, _, _ = load_pretrained_model(stages[0] / "second", base, device="cpu", reduction="")
    _, kept, _, _ = load_pretrained_model(shipped, base, device="cpu")
    for (name, weight), rounded in zip(learnt.named_parameters(), kept.parameters()):
        torch.testing.assert_close(rounded, weight, rtol=2e-2, atol=2e-3, msg=name)

    words = ["--output", str(base), "--learnt", str(shipped), "--trained", str(tmp_path / "merged")]
    assert build_main([*words, "--index", "file:///none"]) == 2  # other parts than this base is made of
    merged = merge(base, shipped, tmp_path / "merged")
    _, alone, _, _ = load_pretrained_model(merged, device="cpu")
    for (name, weight), rounded in zip(kept.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(rounded, weight, rtol=2e-3, atol=1e-4, msg=name)
    assert merge(base, shipped, merged) == merged
    (shipped / "adapter_model.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match="holds another build"):
        merge(base, shipped, merged)


def test_what_cannot_be_shipped_or_trained_says_why(base, world, tmp_path, small):
    output = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_model\.safetensors; give the folder of a finished"):
        ship(tmp_path, output, ["first"])
    with pytest.raises(ValueError, match="until='third' is no stage; choose one of first, second"):
        run.train_things(base, world, tmp_path, output, until="third")
    output.mkdir()
    for stages, until, why in (
        (["first"], "first", "until='first', but .*out has been through first; give a later stage"),
        (["zeroth"], None, r"was trained by other stages \(zeroth\); give another output"),
    ):
        (output / "stages.json").write_text(json.dumps(stages))
        with pytest.raises(ValueError, match=why):
            run.train_things(base, world, tmp_path, output, until)


def test_what_was_shipped_is_where_training_begins(base, world, tmp_path, small, monkeypatch):
    run.train_things(base, world, tmp_path / "one", tmp_path / "lora", until="first")
    begun = []
    monkeypatch.setattr(run, "_trained", lambda stage, *rest: begun.append((stage.name, rest[3])) or rest[3])
    run.train_things(base, world, tmp_path / "another machine", tmp_path / "lora")
    assert begun == [("second", tmp_path / "lora")]
    assert finished_stages(tmp_path / "lora") == ["first", "second"]


def test_what_was_begun_with_another_curriculum_or_other_parts_is_not_gone_on_from(
    base, world, tmp_path, small, monkeypatch
):
    work, output = tmp_path / "work", tmp_path / "lora"
    run.train_things(base, world, work, output, until="first")
    (output / "stages.json").unlink()
    for change, why in (
        ({"rate": 2e-3}, r"stages/first holds the work of another: stage.rate is 0.001 there and 0.002 now"),
        ({"pictures": 4}, r"stages/first .*stage.pictures is 8 there and 4 now"),
    ):
        edited = (replace(STAGES[0], **change), STAGES[1])
        monkeypatch.setattr(run, "CURRICULUM", edited)
        with pytest.raises(ValueError, match=why):
            run.train_things(base, world, work, output, until="first")
        monkeypatch.setattr(run, "CURRICULUM", STAGES)
    with pytest.raises(ValueError, match=r"records/first holds the work of another: most is 2 there and 3 now"):
        write_records(replace(STAGES[0], most=3), world, work / "records/first")
    write_records(replace(STAGES[0], rate=2e-3), world, work / "records/first")  # a rate draws no picture

    run.train_things(base, world, work, output, until="first")  # what it was begun with it goes on from
    (work / "aligned/mm_projector.bin").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"stages/first .*: before is '[0-9a-f]{64}' there and"):
        run.train_things(base, world, work, tmp_path / "other", until="first")
    other = shutil.copytree(base, tmp_path / "base")
    (other / "build.json").write_text("{}")
    with pytest.raises(ValueError, match="aligned holds the work of another: base is"):
        run.train_things(other, world, work, tmp_path / "other", until="first")

"""Training of the embedded model: what it packs is what inference sees, it resumes, and its checkpoint loads as LLaVA's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from llava.conversation import get_conversation
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.shapes import following, language, lessons, packing, tower, world
from llava.shapes.checkpoint import export

SEED, WIDTH = 13, 64


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    eyes = tower.build_tower(hidden=WIDTH, layers=2).eval()
    tokenizer = language.train_tokenizer(folder, pictures=200)
    return folder, eyes, tokenizer, packing.cache_pictures(eyes, folder, 4, SEED)


def phase(until, layers=5, patches=60, **shares):
    shares = {"caption_share": 0.2, "open_share": 0.3, "yes_no_share": 0.3, "suffix_share": 0.5, **shares}
    return lessons.Phase(until, layers, patches, rate=1e-3, pictures=2, questions=8, **shares)


def test_tokenizer_holds_every_word_of_the_world_whole(work):
    packer = packing.Packer(work[2], seed=0)
    assert len(packer.kind_words) == len(world.KINDS)
    text = "\nIs the ring red? ASSISTANT: Yes"
    assert work[2].decode(work[2].encode(text)) == text


def test_features_are_cached_once_and_for_the_right_pictures(work):
    folder, eyes, _, pictures = work
    image = torch.from_numpy(np.array(world.render(world.make_scene(SEED, 2))))[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected, _, _ = tower.features(eyes, tower.pixels(image))
    np.testing.assert_allclose(pictures.features[2], expected[0].float(), rtol=0, atol=0.05)
    assert (pictures.owners[2] == world.patch_owner(world.make_scene(SEED, 2)).flatten()).all()
    before = (folder / f"features-{SEED}-4.npy").stat().st_mtime_ns
    packing.cache_pictures(eyes, folder, 4, SEED)
    assert (folder / f"features-{SEED}-4.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("below", [0, 2])
def test_deeper_is_the_same_function(below):
    torch.manual_seed(1)
    shallow = language.build_language_model(50, 2).eval()
    ids = torch.randint(3, 50, (1, 9))
    with torch.no_grad():
        assert torch.equal(shallow(ids).logits, language.deepen(shallow, 5, below).eval()(ids).logits)


def test_training_runs_the_layers_as_transformers_does_and_can_hide_the_patches(work):
    _, _, tokenizer, pictures = work
    torch.manual_seed(1)
    model = language.build_language_model(tokenizer.vocab_size(), 6).eval()
    data = packing.Packer(tokenizer, seed=0).batch(pictures, 0, phase(1))
    prompt, patches, words = (data[name].shape[1] for name in ("prompt", "places", "texts"))
    inputs = torch.randn(2, prompt + patches + words, language.WIDTH)
    with torch.no_grad():
        whole = model.model(
            inputs_embeds=inputs,
            attention_mask=data["mask"],
            position_ids=data["positions"],
            use_cache=False,
            output_hidden_states=True,
        )
        for below in (0, 1):
            thought, _, _, hidden = language.forward(model, inputs, data, shallow=False, below=below)
            assert torch.equal(hidden, whole.last_hidden_state)
            assert torch.equal(thought, whole.hidden_states[language.THINKING + below])
        thought, _, _, hidden = language.forward(model, inputs, data, shallow=True, below=0)
        assert hidden.shape[1] == prompt + words  # the patches are gone, and the words differ for it
        assert not torch.allclose(hidden[:, -words:], whole.last_hidden_state[:, -words:])
        torch.testing.assert_close(hidden[:, :prompt], whole.last_hidden_state[:, :prompt])


def test_what_a_layer_looks_at_is_the_attention_of_transformers(work):
    _, _, tokenizer, pictures = work
    torch.manual_seed(1)
    model = language.build_language_model(tokenizer.vocab_size(), language.THINKING + 1).eval()
    data = packing.Packer(tokenizer, seed=0).batch(pictures, 0, phase(1))
    inputs = torch.randn(*data["positions"].shape, language.WIDTH)
    with torch.no_grad():
        looked = language.forward(model, inputs, data, shallow=False, below=0).looked
        model.set_attn_implementation("eager")
        seen = model.model(
            inputs_embeds=inputs,
            attention_mask=torch.zeros(data["mask"].shape).masked_fill(~data["mask"], -torch.inf),
            position_ids=data["positions"],
            use_cache=False,
            output_attentions=True,
        ).attentions[-1]
    torch.testing.assert_close(looked, seen.mean(1), rtol=1e-3, atol=1e-5)


def test_attention_begins_with_what_is_alike():
    """In a new layer a token's score with its equal is far above that with any other."""
    model = language.build_language_model(50, 1)
    attention, tokens = model.model.layers[0].self_attn, torch.randn(20, language.WIDTH)
    with torch.no_grad():
        scores = (attention.q_proj(tokens) @ attention.k_proj(tokens).T) / language.WIDTH**0.5
    assert scores.diagonal().min() > scores.masked_fill(torch.eye(20, dtype=torch.bool), -torch.inf).max()


def test_quarters_of_a_picture_are_attended_to_by_themselves():
    """A change in one quarter leaves the features of the others alone, at every shift of the borders."""
    torch.manual_seed(0)
    eyes, images = tower.build_tower(WIDTH, 3).eval(), torch.randn(2, 3, 336, 336)
    images[1] = images[0]
    images[1, :, :168, :168] += 1
    with torch.no_grad():
        patches, _, _ = tower.quarter_features(eyes, images, (0, 0))
        changed = (patches[0] != patches[1]).any(-1).reshape(24, 24)
        assert changed[:12, :12].all() and not changed[12:].any() and not changed[:, 12:].any()
        shifted, _, _ = tower.quarter_features(eyes, images, (5, 9))
    assert (shifted[0] != shifted[1]).any(-1).sum() > 144


def test_a_stopped_training_ends_as_an_unbroken_one(work, tmp_path):
    _, _, tokenizer, pictures = work
    curriculum, ends = [phase(2, layers=4), phase(4)], []
    for name, stops in (("unbroken", [4]), ("stopped", [1, 3, 4])):
        folder = tmp_path / name
        folder.mkdir()
        for stop in stops:
            model, projector = following.train_language_model(pictures, tokenizer, folder, curriculum, stop_after=stop)
        ends.append({**model.state_dict(), **projector.state_dict()})
    assert len(model.model.layers) == 5
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=1e-6)


def test_the_exported_checkpoint_answers_as_in_training(work, tmp_path):
    """A packed question, sharing its picture with seven others, has the logits of LLaVA asked that question alone."""
    folder, eyes, tokenizer, pictures = work
    torch.manual_seed(2)
    model = language.build_language_model(tokenizer.vocab_size(), 5)
    projector = language.build_projector(WIDTH)
    for module in (model, projector):
        module.load_state_dict({name: value.half().float() for name, value in module.state_dict().items()})
    export(eyes, projector, model, folder / "tokenizer.model", tmp_path / "llava-new")
    eyes.float()
    llava_tokenizer, llava, processor, _ = load_pretrained_model(
        tmp_path / "llava-new", None, "llava-new", device="cpu"
    )

    packer, step = packing.Packer(tokenizer, seed=3), phase(1, patches=576, suffix_share=1.0, caption_share=0.0)
    data = packer.batch(pictures, 0, step)
    rng = np.random.default_rng((3, 0))
    number = int(np.sort(rng.choice(4, size=2, replace=False))[0])
    questions = lessons.draw_questions(world.make_scene(SEED, number), rng, step)

    pixels = process_images([world.render(world.make_scene(SEED, number))], processor, llava.config)
    raw = llava.encode_raw(pixels)
    data["features"][0] = raw[0]  # the cache is float16 of bfloat16 arithmetic; the packing is what is compared
    embed = model.get_input_embeddings()
    with torch.no_grad():
        inputs = torch.cat([embed(data["prompt"]), projector(data["features"]), embed(data["texts"])], dim=1)
        hidden = model.model(
            inputs_embeds=inputs, attention_mask=data["mask"], position_ids=data["positions"], use_cache=False
        ).last_hidden_state[0, -data["texts"].shape[1] :]
        first_words = (data["facts"][0] != -100).nonzero()[:, 0]
        assert len(first_words) == len(questions) == 8
        for place, question in zip(first_words, questions):
            talk = get_conversation("vicuna_v1")
            talk.append_message(talk.roles[0], f"<image>\n{question.text}")
            talk.append_message(talk.roles[1], None)
            ids = tokenizer_image_token(talk.get_prompt(), llava_tokenizer, return_tensors="pt")[None]
            alone = llava(ids, raw_vision_features=raw).logits[0, -1]
            torch.testing.assert_close(model.lm_head(hidden[place]), alone, rtol=0, atol=1e-4)


def test_the_embedded_pictures_need_no_resizing(work):
    image = world.render(world.make_scene(1))
    assert isinstance(image, Image.Image) and image.size == (world.SIZE, world.SIZE)

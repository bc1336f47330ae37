"""What the tower can tell of a picture, against transformers' own CLIP; and merging between its layers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPModel

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.vision.merging import MergingTower
from llava.model.vision.seen import needs_pixels
from llava.reduction import get_method, plan_from
from tests.tower import LAYERS, SIDE, clip_tower, seen, write_clip

CROPS = torch.arange(2)
QUESTIONS = ["what is in the picture ?", "where is the red square ?"]


@pytest.fixture(scope="module")
def pixels():
    torch.manual_seed(0)
    return torch.randn(2, 3, SIDE, SIDE)


@pytest.fixture(scope="module")
def clip():
    return CLIPModel.from_pretrained(clip_tower().vision_tower_name, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def shown(clip, pixels):
    with torch.no_grad():
        return clip.vision_model(pixels, output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize("layer", [0, -2, -1])
def test_attention_of_the_class_token_and_of_the_patches(pixels, shown, layer):
    tower = seen(pixels)
    maps = shown.attentions[layer]  # (G, H, 1 + P, 1 + P)
    torch.testing.assert_close(tower.cls_attention(CROPS, layer), maps[:, :, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(tower.mean_attention(CROPS, layer), maps[:, :, 1:, 1:].mean(2), rtol=0, atol=1e-5)
    # of some crops alone, in any order
    torch.testing.assert_close(tower.cls_attention(torch.tensor([1]), layer), maps[1:, :, 0], rtol=0, atol=1e-5)


def test_keys_and_the_class_tokens_query_make_that_attention(pixels, shown):
    tower = seen(pixels)
    query, key = tower.cls_projections(CROPS, -2)
    keys = torch.cat([key[:, :, None], tower.keys(CROPS, -2)], dim=2)
    logits = (query[:, :, None] @ keys.transpose(-1, -2))[:, :, 0] * query.shape[-1] ** -0.5
    torch.testing.assert_close(logits.softmax(-1), shown.attentions[-2][:, :, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(tower.cls_row(CROPS), shown.hidden_states[-2][:, 0])


def test_patches_and_questions_in_clips_shared_space(pixels, clip, shown):
    tower = seen(pixels, QUESTIONS)
    with torch.no_grad():
        expected = clip.visual_projection(clip.vision_model.post_layernorm(shown.hidden_states[-2][:, 1:]))
        ids = [tower.tower.text.tokenizer(text, return_tensors="pt") for text in QUESTIONS]
        texts = torch.cat([clip.get_text_features(**one).pooler_output for one in ids])
        states = [clip.text_projection(clip.text_model(**one).last_hidden_state)[0, :-1] for one in ids]
    torch.testing.assert_close(tower.clip_patches(CROPS), expected, rtol=0, atol=1e-5)
    found, real = tower.clip_text(CROPS)
    assert real.all() and found.shape[1] == 1
    torch.testing.assert_close(found[:, 0], texts, rtol=0, atol=1e-5)
    words, real = tower.clip_words(CROPS)
    for row, state in enumerate(states):
        torch.testing.assert_close(words[row][real[row]], state, rtol=0, atol=1e-5)


def test_a_question_of_more_than_clip_reads_becomes_several_segments(pixels):
    tower = seen(pixels, ["what is in the picture ? " * 10, "where"])
    texts, real = tower.clip_text(CROPS)
    words = len(tower.tower.text.tokenizer(tower.questions[0]).input_ids) - 2
    assert words > 150 and real.sum(1).tolist() == [-(-words // 75), 1]
    alone, _ = seen(pixels, ["where", "where"]).clip_text(CROPS)
    torch.testing.assert_close(alone[1, 0], texts[1, 0])


def test_a_folder_without_text_names_what_may_stand_for_it(tmp_path: Path, pixels):
    settings = SimpleNamespace(mm_vision_select_layer=-2, mm_vision_select_feature="patch")
    tower = CLIPVisionTower(str(write_clip(tmp_path, text=False)), settings)
    with pytest.raises(ValueError, match="vision side alone.*relevance=embeddings"):
        _ = tower.text


def test_layers_above_the_features_are_never_run_and_cannot_be_read():
    tower = clip_tower(-3)
    assert tower.layers_run == LAYERS - 2 and tower.layer_number(-2) == LAYERS - 2
    with pytest.raises(ValueError, match="layer -1 of the vision tower cannot be read"):
        tower.layer_number(-1)
    with pytest.raises(ValueError, match="layer 9 of the vision tower cannot be read"):
        tower.layer_number(9)


# --------------------------------------------------------------------------------------------------- merging in the tower


def merged(pixels, plan):
    tower, (stage,) = clip_tower(), plan_from(plan)
    runner = MergingTower(stage, len(pixels), tower.num_patches, tower)
    return tower.encode(pixels, runner=runner), runner


@pytest.mark.parametrize("keep", [8, 9, 40, 63])
@pytest.mark.parametrize("options", ["", ",inflect=-1", ",inflect=0.5", ",mode=code", ",proportional=false"])
def test_exactly_so_many_tokens_leave_and_stand_for_all(pixels, keep, options):
    out, runner = merged(pixels, f"tome:{keep}{options}")
    assert out.features.shape[1] == keep
    assert runner.sizes.sum(1).tolist() == [65.0, 65.0]
    assert all(len(row.unique()) == keep for row in runner.origins)
    assert out.rows[0] == 65 and out.rows == sorted(out.rows, reverse=True)


def test_merging_nothing_is_the_tower_itself(pixels):
    out, _ = merged(pixels, "tome:64")
    torch.testing.assert_close(out.features, clip_tower().encode(pixels).features, rtol=0, atol=1e-5)


def test_equal_patches_merge_without_a_trace(pixels):
    """Of a picture of one colour without positions every patch is the same, however many stand for one."""
    tower = clip_tower()
    embeddings = tower.vision_tower.embeddings.position_embedding.weight
    kept, plain = embeddings.detach().clone(), torch.ones(1, 3, SIDE, SIDE)
    try:
        embeddings.data[1:] = embeddings.data[1]
        dense, (out, _) = tower.encode(plain), merged(plain, "tome:8")
        torch.testing.assert_close(
            out.hidden[:, 0], dense.hidden[:, 0], rtol=0, atol=1e-4
        )  # sizes weigh as copies would
        torch.testing.assert_close(out.features[:, 0], dense.features[:, 0], rtol=0, atol=1e-4)
        loose, _ = merged(plain, "tome:8,proportional=false")
        assert (loose.hidden[:, 0] - dense.hidden[:, 0]).abs().max() > 1e-3
    finally:
        embeddings.data.copy_(kept)


def test_a_batch_is_each_crop_alone(pixels):
    together, _ = merged(pixels, "tome:9")
    for row in range(2):
        alone, _ = merged(pixels[row : row + 1], "tome:9")
        torch.testing.assert_close(alone.features[0], together.features[row], rtol=0, atol=1e-5)


def test_a_tower_that_is_too_shallow_for_so_few_is_refused(pixels):
    with pytest.raises(ValueError, match="each of the 3 layers that run can merge half.* at least 8 of 64"):
        merged(pixels, "tome:7")


def test_steps_reach_the_budget_whatever_the_line():
    for keep in (1, 7, 64, 500, 576):
        for inflect in (-1.0, -0.3, 0.0, 1.0):
            steps = get_method("tome")(inflect=inflect).tower_steps(576, keep, 23)
            assert sum(steps) == 576 - keep and min(steps) >= 0


@pytest.mark.parametrize(
    ("plan", "needed"),
    [("", False), ("divprune:8+fastv@2:4", False), ("fastervlm:8", True), ("tome:8", True), ("cdpruner:8", True),
     ("cdpruner:8,relevance=embeddings", False), ("pyramiddrop", False), ("downsample:16", False)],
)  # fmt: skip
def test_which_plans_need_the_pixels(plan, needed):
    assert needs_pixels(plan_from(plan)) == needed

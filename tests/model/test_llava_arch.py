"""Images into prompts: where features land, how crops are merged, what does not fit."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import pytest
import torch

from llava.constants import IGNORE_INDEX
from llava.reduction import reduced


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 336, 336, generator=torch.Generator().manual_seed(1))


def ids(*rows):
    """Right-padded prompts and their mask."""
    longest = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows]), mask


def test_length_and_layout(llava15, pixels):
    prompt, mask = ids([1, 5, -200, 6, -200, 7])
    labels = torch.tensor([[10, 11, 12, 13, 14, 15]])
    spliced = llava15.model.splice(prompt, mask, labels, pixels[:2])
    n = 576
    assert spliced.inputs_embeds.shape == (1, 6 - 2 + 2 * n, 64)
    assert spliced.visual[0].tolist() == [0, 0, *[1] * n, 0, *[2] * n, 0]
    ignored = [IGNORE_INDEX] * n
    assert spliced.labels[0].tolist() == [10, 11, *ignored, 13, *ignored, 15]
    assert spliced.position_ids[0].tolist() == list(range(4 + 2 * n)) and spliced.attention_mask.all()
    features = llava15.model.encode_images(pixels[:2])
    torch.testing.assert_close(spliced.inputs_embeds[0, 2 : 2 + n], features[0])
    torch.testing.assert_close(spliced.inputs_embeds[0, 3 + n : 3 + 2 * n], features[1])
    embed = llava15.model.get_input_embeddings()
    assert torch.equal(spliced.inputs_embeds[0, 2 + n], embed(torch.tensor(6)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side(llava15, pixels, side):
    prompt, mask = ids([1, 5, -200, 6], [1, 7])
    spliced = llava15.model.splice(prompt, mask, images=pixels[:1], padding_side=side)
    place = slice(-2, None) if side == "left" else slice(0, 2)
    assert spliced.attention_mask.sum(1).tolist() == [579, 2] and spliced.attention_mask[1, place].all()
    assert spliced.position_ids[1, place].tolist() == [0, 1] and not spliced.visual[1].any()
    assert torch.equal(spliced.inputs_embeds[1, place], llava15.model.get_input_embeddings()(torch.tensor([1, 7])))
    assert not spliced.inputs_embeds[1][~spliced.attention_mask[1]].any()


def test_the_config_decides_the_side_of_training(configured, pixels):
    prompt, mask = ids([1, -200], [1])
    assert configured.model.splice(prompt, mask, images=pixels[:1]).attention_mask[1, 0]
    configured.model.config.tokenizer_padding_side = "left"
    assert configured.model.splice(prompt, mask, images=pixels[:1]).attention_mask[1, -1]
    with pytest.raises(ValueError, match="'middle'"):
        configured.model.splice(prompt, mask, images=pixels[:1], padding_side="middle")


def test_six_values(llava15, pixels):
    prompt, mask = ids([1, -200, 5])
    prepare = llava15.model.prepare_inputs_labels_for_multimodal
    nothing = prepare(prompt, None, None, "cache", None, pixels[:1])
    assert nothing[:4] == (None, None, None, "cache") and nothing[4].shape == (1, 578, 64) and nothing[5] is None
    everything = prepare(prompt, torch.arange(3)[None], mask.bool(), None, prompt, pixels[:1])
    assert everything[1].shape == everything[2].shape == everything[5].shape == (1, 578)
    assert everything[2].dtype == torch.bool
    # No images, or a single token: handed back.
    assert prepare(prompt, None, mask, None, None, None) == (prompt, None, mask, None, None, None)
    assert prepare(prompt[:, :1], None, None, None, None, pixels[:1])[0] is not None


def test_images_and_their_tokens_must_fit(llava15, pixels):
    splice = llava15.model.splice
    two, _ = ids([1, -200, -200])
    none, _ = ids([1, 5])
    for prompt, images in ((two, pixels[:1]), (two, None), (two, pixels), (none, pixels[:1]), (none, pixels[:2])):
        with pytest.raises(ValueError, match=r"\d image tokens in input_ids \(per row .*\) but \d images"):
            splice(prompt, images=images)
    with pytest.raises(ValueError, match=r"image_sizes for 2 images"):
        splice(two, images=pixels[:2], image_sizes=[(1, 1)])
    with pytest.raises(ValueError, match="batch, length"):
        splice(two[0], images=pixels[:2])


def test_dummies_for_text_rows_are_understood(llava15, pixels):
    prompt, mask = ids([1, -200], [1, 5], [1, -200])
    dummy = torch.zeros_like(pixels[0])
    with_dummy = llava15.model.splice(prompt, mask, images=torch.stack([pixels[0], dummy, pixels[2]]))
    without = llava15.model.splice(prompt, mask, images=pixels[[0, 2]])
    assert torch.equal(with_dummy.inputs_embeds, without.inputs_embeds)
    text, _ = ids([1, 5])
    assert llava15.model.splice(text, images=torch.zeros(1, 3, 336, 336)).inputs_embeds.shape[1] == 2


def test_a_picture_whose_image_token_was_forgotten_in_one_row_is_named(llava15, pixels):
    prompt, mask = ids([1, -200], [1, 5], [1, -200])
    with pytest.raises(ValueError, match="row 1 has no <image>, but the image in its place is not all zeros"):
        llava15.model.splice(prompt, mask, images=pixels)


def test_cut_with_a_warning(configured, pixels, caplog):
    configured.model.config.tokenizer_model_max_length = 100
    prompt, mask = ids([1, 5, -200, 6], [1, 7])
    spliced = configured.model.splice(prompt, mask, images=pixels[:1])
    assert spliced.inputs_embeds.shape[1] == spliced.visual.shape[1] == spliced.labels.shape[1] == 100
    assert spliced.attention_mask.sum(1).tolist() == [100, 2] and "579 positions is cut to" in caplog.text


def test_seed_is_the_pictures_alone(llava15, pixels):
    prompt, mask = ids([1, -200], [1, 9, 9, -200], [1, 5], [1, -200, -200])
    model = llava15.model
    with reduced(model, "random@2:4"):
        batch = model.splice(prompt, mask, images=list(pixels[[0, 1, 0, 1]])).sample_seed
        alone = model.splice(prompt[1:2], images=pixels[1:2]).sample_seed
    assert batch[0] == zlib.crc32(pixels[0].numpy().tobytes()) and batch[1] == alone[0] and batch[2] == 0
    assert len(set(batch.tolist())) == 4
    assert not model.splice(prompt[1:2], images=pixels[1:2]).sample_seed.any()  # no plan asks: nothing is computed


@pytest.mark.parametrize("plan", ["random:9", "random@prompt:9", "random@2:9"])
def test_the_random_draw_is_the_same_from_pixels_and_from_raw_features(llava15, pixels, plan):
    model, (prompt, mask) = llava15.model, ids([1, -200, 5], [1, -200, 6])
    given = [
        {"images": pixels[:2]},
        {"raw_vision_features": model.encode_raw(pixels[:2]), "image_seeds": model.image_seeds(pixels[:2])},
    ]
    kept = []
    with reduced(model, plan):
        for images in given:
            model.generate(prompt, attention_mask=mask, max_new_tokens=1, do_sample=False, **images)
            kept.append(model.last_trace[0].kept)
        model.generate(prompt[1:], max_new_tokens=1, do_sample=False, images=pixels[1:2])
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0][1:], model.last_trace[0].kept)
    assert not torch.equal(kept[0][0], kept[0][1])
    with pytest.raises(ValueError, match="1 image_seeds for 2 images"):
        model.splice(prompt, mask, images=pixels[:2], image_seeds=[3])


def test_raw_features_replace_pixels(llava15, pixels):
    raw = llava15.model.encode_raw(pixels[:2])
    assert [tuple(features.shape) for features in raw] == [(576, 32)] * 2
    prompt, _ = ids([1, -200, 5, -200])
    torch.testing.assert_close(
        llava15.model.splice(prompt, raw_vision_features=raw).inputs_embeds,
        llava15.model.splice(prompt, images=pixels[:2]).inputs_embeds,
    )
    with pytest.raises(ValueError, match="both images and raw_vision_features"):
        llava15.model.splice(prompt, images=pixels[:2], raw_vision_features=raw)
    with pytest.raises(ValueError, match="disagree in shape"):
        llava15.model.splice(prompt, raw_vision_features=[raw[0], raw[1][:9]])


def test_pixels_of_another_dtype(llava15, pixels):
    """float16 pictures for a float32 model: the tower still computes in float32."""
    prompt, _ = ids([1, -200])
    half = llava15.model.splice(prompt, images=pixels[:1].half()).inputs_embeds
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, llava15.model.splice(prompt, images=pixels[:1].half().float()).inputs_embeds)


def test_a_tower_is_needed(llava15, pixels, monkeypatch):
    monkeypatch.setattr(llava15.model.model, "get_vision_tower", lambda: None)
    with pytest.raises(ValueError, match="no vision tower"):
        llava15.model.splice(torch.tensor([[1, -200]]), images=pixels[:1])


def test_new_image_tokens_grow_the_embeddings(checkpoint):
    from llava.model.builder import load_pretrained_model

    tokenizer, model, *_ = load_pretrained_model(checkpoint, device="cpu")
    model.initialize_vision_tokenizer(SimpleNamespace(mm_use_im_patch_token=False, mm_use_im_start_end=True), tokenizer)
    assert model.get_input_embeddings().num_embeddings == model.lm_head.out_features == 422
    assert tokenizer.convert_tokens_to_ids("<im_end>") == 421


def test_training_starts_from_a_language_model(checkpoint, tmp_path):
    """A config without a tower, then `initialize_vision_modules`, then a projector file."""
    from llava.model import LlavaConfig, LlavaLlamaForCausalLM

    torch.manual_seed(0)
    model = LlavaLlamaForCausalLM(
        LlavaConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    )
    assert model.get_vision_tower() is None
    projector = {
        "model.mm_projector.0.weight": torch.ones(16, 32),
        "model.mm_projector.0.bias": torch.zeros(16),
        "model.mm_projector.2.weight": torch.ones(16, 16),
        "model.mm_projector.2.bias": torch.zeros(16),
    }
    torch.save(projector, tmp_path / "mm_projector.bin")
    args = SimpleNamespace(
        vision_tower=str(checkpoint / "clip-tiny-patch14-336"),
        mm_vision_select_layer=-2,
        mm_vision_select_feature="patch",
        mm_projector_type="mlp2x_gelu",
        pretrain_mm_mlp_adapter=str(tmp_path / "mm_projector.bin"),
    )
    model.get_model().initialize_vision_modules(args)
    assert model.get_model().mm_projector[0].weight.eq(1).all() and model.config.mm_hidden_size == 32
    loss = model(
        torch.tensor([[1, -200, 5]]), images=torch.rand(1, 3, 336, 336), labels=torch.tensor([[1, -200, 5]])
    ).loss
    loss.backward()
    assert model.get_model().mm_projector[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.get_vision_tower().parameters())

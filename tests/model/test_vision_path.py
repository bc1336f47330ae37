"""The way of a picture through LLaVA: nothing that is asked of one call changes another."""

from __future__ import annotations

import copy
import pickle
from types import MethodType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava.model.llava_arch import LlavaMetaForCausalLM
from llava.reduction import reduced
from llava.reduction.cost import tower_flops
from tests.conftest import PARITY15, World


@pytest.fixture
def case(llava15):
    return llava15.inputs(llava15.cases()[0])


FLAGS = [{"output_hidden_states": True}, {"output_attentions": True}]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: next(iter(flags)))
def test_no_flag_of_a_call_changes_what_the_tower_gives(llava15, case, flags):
    """Captured states are other layers once transformers' hooks sit on the tower twice; they are never indexed."""
    model, pixels = llava15.model, case["images"]
    before = model.encode_images(pixels)
    with torch.no_grad():
        model(**case, **flags)
        model.generate(**case, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, **flags)
        model(torch.tensor([[1, 5, 6]]), **flags)
        model.get_vision_tower().vision_tower(pixels, **flags)
    assert torch.equal(model.encode_images(pixels), before)


@pytest.mark.parametrize("layer", [-1, -2, 0, 1, -3])
def test_the_tower_takes_the_layer_that_transformers_would(llava15, case, layer):
    tower = copy.deepcopy(llava15.model.get_vision_tower())
    tower.select_layer = layer
    # A new one: other tests may have left transformers' hooks on the shared tower twice.
    theirs = type(tower.vision_tower)(tower.config).eval()
    theirs.load_state_dict(tower.vision_tower.state_dict())
    expected = theirs(case["images"], output_hidden_states=True)
    assert torch.equal(tower(case["images"]), expected.hidden_states[layer][:, 1:])
    assert torch.equal(tower.feature_select(expected), expected.hidden_states[layer][:, 1:])


def test_a_layer_that_the_tower_lacks_is_named(llava15, case):
    tower = copy.deepcopy(llava15.model.get_vision_tower())
    tower.select_layer = -99
    with pytest.raises(ValueError, match="mm_vision_select_layer=-99 is out of range"):
        tower(case["images"])


@pytest.mark.parametrize("crops", [1, 3])
def test_the_tower_costs_what_is_counted(llava15, case, crops):
    """Within one per cent: norms, softmax and biases are left out of both."""
    tower = llava15.model.get_vision_tower()
    pixels = case["images"][:1].expand(crops, -1, -1, -1)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        tower(pixels)
    assert tower_flops(tower.config, crops, [tower.num_patches + 1] * tower.layers_run) == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )


def test_every_row_pays_for_its_own_crops_and_beams_cost_once(llava15):
    cases = [llava15.inputs(case) for case in llava15.cases() if len(case["images"]) == 1][:1]
    pixels, ids = cases[0]["images"], cases[0]["input_ids"]
    two = torch.cat([ids, ids])
    llava15.model.generate(two, images=[pixels[0], pixels[0].expand(3, -1, -1, -1)], image_sizes=[(336, 336)] * 2,
                           num_beams=2, max_new_tokens=1, do_sample=False, reduction="fastv@1:9")  # fmt: skip
    one, three = llava15.model.last_cost()
    assert three.tower_flops == 3 * one.tower_flops and three.projector_flops == 3 * one.projector_flops
    assert three.rows_per_layer[0] - one.rows_per_layer[0] == 2 * 576 and three.llm_flops > one.llm_flops
    assert one.visual_per_layer[1] == three.visual_per_layer[1] == 9
    llava15.model.generate(ids, images=pixels, max_new_tokens=1, do_sample=False, reduction="fastv@1:9")
    assert llava15.model.last_cost()[0] == one


def test_stages_at_the_prompt_are_paid_for(llava15, case):
    with torch.no_grad():
        llava15.model(**case, reduction="custom_selection@prompt:9")
    assert llava15.model.last_cost()[0].selector_flops > 0


def test_crops_of_one_picture_draw_differently(llava15, case):
    """Seeds of neighbouring pictures and crops never meet."""
    pixels = case["images"][0].expand(3, -1, -1, -1)
    with torch.no_grad():
        llava15.model.splice(
            case["input_ids"], images=[pixels], image_sizes=[(336, 336)], reduction="random@features:27"
        )
    kept = llava15.model.last_trace[0].kept.tolist()
    assert len(kept) == len({tuple(crop) for crop in kept}) == 3


def test_forward_takes_the_seeds_that_generate_takes(llava15, case):
    model, seeds = llava15.model, [5]
    chosen = []
    with torch.no_grad(), reduced(model, "random@features:9"):
        model.generate(**case, image_seeds=seeds, max_new_tokens=1, do_sample=False)
        chosen.append(model.last_trace[0].kept)
        raw = model.encode_raw(case["images"])
        model(case["input_ids"], raw_vision_features=raw, image_seeds=seeds)
        chosen.append(model.last_trace[0].kept)
        model(**case)
        chosen.append(model.last_trace[0].kept)
    assert torch.equal(chosen[0], chosen[1]) and not torch.equal(chosen[0], chosen[2])


# --------------------------------------------------------------------------------------------------- other people's methods


@pytest.mark.parametrize("where", ["class", "model"])
def test_a_replaced_encode_images_is_called(llava15, case, monkeypatch, where):
    model, calls, ours = llava15.model, [], LlavaMetaForCausalLM.encode_images

    def replacement(self, images):
        calls.append(len(images))
        return ours(self, images)[:, :40]

    target, method = (
        (LlavaMetaForCausalLM, replacement) if where == "class" else (model, MethodType(replacement, model))
    )
    monkeypatch.setattr(target, "encode_images", method)
    with torch.no_grad():
        model(**case)
        assert model.model.last_visual_per_layer[0, 0] == 40
        model.generate(**case, max_new_tokens=1, do_sample=False, reduction="fastv@1:9")
        assert model.model.last_visual_per_layer[1, 0] == 9
        with pytest.raises(ValueError, match="encode_images was replaced"):
            model(**case, reduction="grid@features:9")
    assert calls[:2] == [1, 1]


def test_a_replaced_prepare_inputs_is_called(llava15, case, monkeypatch):
    model, calls, ours = llava15.model, [], LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal
    with torch.no_grad():
        expected = model(**case).logits
        answer = model.generate(**case, max_new_tokens=3, do_sample=False)

    def replacement(self, *arguments, **keywords):
        calls.append(len(arguments))
        return ours(self, *arguments, **keywords)

    monkeypatch.setattr(LlavaMetaForCausalLM, "prepare_inputs_labels_for_multimodal", replacement)
    with torch.no_grad():
        assert torch.equal(model(**case).logits, expected)
        assert torch.equal(model.generate(**case, max_new_tokens=3, do_sample=False), answer)
        with pytest.raises(ValueError, match="prepare_inputs_labels_for_multimodal of this model was replaced"):
            model(**case, reduction="fastv@1:9")
    assert calls == [6, 6]


def test_a_replaced_tower_forward_gets_the_images_alone(llava15, case, monkeypatch):
    tower = llava15.model.get_vision_tower()
    ours = type(tower).forward
    monkeypatch.setattr(type(tower), "forward", lambda self, images: ours(self, images))
    with torch.no_grad():
        assert llava15.model(**case).logits.isfinite().all()


# ------------------------------------------------------------------------------------------------------------ generation


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ({"fast_v_attention_rank": 3}, "generate does not know fast_v_attention_rank=3"),
        ({"guidance_scale": 2.0}, "cannot use guidance_scale"),
        ({"prefill_chunk_size": 8}, "cannot use prefill_chunk_size"),
        ({"assistant_model": object()}, "cannot use assistant_model"),
        ({"max_length": 20}, "max_length=20 counts the prompt"),
    ],
)
def test_what_generate_cannot_do_is_refused(llava15, case, keywords, message):
    with pytest.raises(ValueError, match=message):
        llava15.model.generate(**case, **keywords)


def test_a_used_cache_is_refused_by_generate_and_taken_by_forward(llava15, case):
    model = llava15.model
    first = model.generate(**case, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="holds .* positions already"):
        model.generate(**case, past_key_values=first.past_key_values)
    with torch.no_grad():
        assert model(torch.tensor([[9, 10]]), past_key_values=first.past_key_values).logits.shape[1] == 2


def test_an_empty_prompt_and_an_image_token_alone(llava15, case):
    with pytest.raises(ValueError, match="at least one token"):
        llava15.model.generate(torch.zeros(1, 0, dtype=torch.long))
    with torch.no_grad():
        assert llava15.model(torch.tensor([[-200]]), images=case["images"]).logits.shape[1] == 576


def test_caching_switched_off_is_said_to_have_no_effect(llava15, case, caplog):
    llava15.model.generate(**case, max_new_tokens=1, do_sample=False, use_cache=False)
    assert "use_cache=False has no effect" in caplog.text


def test_a_model_that_has_seen_a_picture_can_be_pickled(case):
    model = World.load(PARITY15).model
    with torch.no_grad():
        expected = model(**case).logits
        twin = pickle.loads(pickle.dumps(model))
        assert torch.equal(twin(**case).logits, expected)

"""Reduction inside LLaVA: the official programs' numbers, every site, the trace and the cost."""

from __future__ import annotations

import json

import pytest
import torch

from llava.reduction import Need, get_method, method_names, plan_from, reduced
from llava.reduction.stage import BATCHED_SITES
from tests.conftest import PARITY15, World
from tests.tower import early_plan

METHODS = [
    "official_fastv_inplace",
    "official_fastv_mask",
    "official_fastv_inplace_k3",
    "fastv",
    "fastv_adv_max_head",
    "fastv_adv_avg_all_heads",
    "fastv_adv_weighted_combination",
    "himap",
    "himap_b",
]


@pytest.fixture(scope="module")
def cases(llava15):
    """The keywords of two recorded single-image prompts."""
    return [llava15.inputs(case) for case in llava15.cases()[:2]]


def load(**knobs):
    return World.load(PARITY15, **knobs).model


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("name", METHODS)
def test_logits_and_kept_tokens_are_the_official_ones(cases, name, case):
    recorded = json.loads((PARITY15 / "methods.json").read_text())[name][case]
    model = load(**recorded["config"])
    with torch.no_grad():
        logits = model(**cases[recorded["case"]]).logits[0, -1]
    torch.testing.assert_close(logits, torch.tensor(recorded["logits_last"]), rtol=0, atol=1e-4)
    if "kept_indices" in recorded:
        assert model.model.last_gen_kept_indices.tolist() == recorded["kept_indices"]
    if "metadata" in recorded:
        metadata = dict(model.model.last_selection_metadata)
        importance = metadata.pop("head_importance", None)
        expected = dict(recorded["metadata"])
        if importance is not None:
            assert importance.tolist() == pytest.approx(expected.pop("head_importance"), abs=1e-5)
        assert metadata == expected


@pytest.mark.parametrize("case", [0, 1])
def test_fps_keeps_what_the_original_did_from_the_same_first_token(cases, case):
    recorded = json.loads((PARITY15 / "methods.json").read_text())["custom_fps"][case]
    picked = recorded["selected_positions_in_pick_order"]
    model = load(reduction=f"custom_selection@2:16,start={picked[0]},place=zero_fill")
    with torch.no_grad():
        model(**cases[recorded["case"]])
    assert model.last_trace[0].kept[0].tolist() == sorted(picked)


@pytest.mark.parametrize("case", [0, 1])
def test_connectivity_keeps_what_the_original_called_tome(cases, case):
    """Its centres cannot move, so it keeps the tokens of highest degree."""
    recorded = json.loads((PARITY15 / "methods.json").read_text())["custom_tome"][case]
    model = load(**recorded["config"] | {"custom_selection_method": "connectivity"})
    with torch.no_grad():
        model(**cases[recorded["case"]])
    assert model.model.last_selected_positions.tolist() == sorted(recorded["selected_positions_in_pick_order"])
    assert model.model.last_gen_kept_indices.tolist() == sorted(recorded["kept_indices"])


@pytest.fixture(scope="module")
def model(llava15):
    return llava15.model


def answer(model, case, plan, **options):
    with reduced(model, plan):
        return model.generate(**case, max_new_tokens=3, do_sample=False, **options)


@pytest.mark.parametrize(
    ("plan", "per_layer"),
    [
        ("full", [576] * 8),
        ("blind", [0] * 8),
        ("random:64", [64] * 8),
        ("grid@prompt:36", [36] * 8),
        ("pool:64+fastv@2:16", [64] * 2 + [16] * 6),
        ("stride@prompt:0.25", [144] * 8),
        ("fastv@2:64,place=mask", [576] * 8),
        ("blind@3", [576] * 3 + [0] * 5),
    ],
)
def test_every_site_shortens_what_follows_and_the_cost_says_so(model, cases, plan, per_layer):
    entered = []
    handles = [
        layer.register_forward_pre_hook(lambda module, args: entered.append(args[0].shape[1]))
        for layer in model.model.layers
    ]
    answer(model, cases[0], plan)
    for handle in handles:
        handle.remove()
    (cost,) = model.last_cost()
    assert cost.visual_per_layer == per_layer
    assert cost.rows_per_layer == entered[:8]
    assert cost.visual_tokens == sum(per_layer) / 8


def test_dense_cost_by_hand(model, cases):
    """8 layers, d 64, m 160, 4 heads of 16, 676 rows: 2 (4 n d^2 + 2 n^2 d + 3 n d m) a layer, 2 d V on the last row."""
    answer(model, cases[0], "")
    (cost,) = model.last_cost()
    rows = cost.rows_per_layer[0]
    layer = 2 * (4 * rows * 64**2 + 2 * rows**2 * 64 + 3 * rows * 64 * 160)
    assert cost.llm_flops == 8 * layer + 2 * 64 * 420
    assert cost.kv_bytes == 8 * rows * 2 * 64 * 4
    assert cost.projector_flops == 2 * 576 * (32 * 64 + 64 * 64)
    assert cost.selector_flops == 0
    assert cost.total_flops == cost.llm_flops + cost.projector_flops + cost.tower_flops


def test_beams_report_one_cost_a_prompt(model, cases):
    answer(model, cases[0], "fastv@2:64", num_beams=3)
    assert [cost.visual_per_layer[-1] for cost in model.last_cost()] == [64]


def test_tower_and_projector_run_once(model, cases):
    calls = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in (("tower", model.get_vision_tower()), ("projector", model.model.mm_projector))
    ]
    answer(model, cases[0], "pool:64+fastv@2:16")
    for handle in handles:
        handle.remove()
    assert sorted(calls) == ["projector", "tower"]


def test_three_spellings_are_one_plan():
    knobs = {"use_fast_v": True, "fast_v_agg_layer": 2, "fast_v_attention_rank": 144}
    by_knobs, by_string = load(**knobs), load(reduction="fastv@2:144")
    plain = load()
    answers = [answer_of.model.plan() for answer_of in (by_knobs, by_string)]
    assert [str(plan[0]) for plan in answers] == ["fastv@2:144"] * 2
    with reduced(plain, "configs/methods/fastv.yaml"):
        assert str(plain.model.plan()[0]) == "fastv@2:144"
    for name, value in knobs.items():
        setattr(plain.config, name, value)
    assert str(plain.model.plan()[0]) == "fastv@2:144"


def test_a_trace_is_of_one_prompt(model, cases):
    """A prompt that is only spliced has no record of the decoder's stages, and none of the prompt before."""
    answer(model, cases[0], "fastv@2:64")
    assert [record.name for record in model.last_trace] == ["fastv"]
    model.splice(cases[0]["input_ids"], images=cases[0]["images"], reduction="random:16+fastv@2:8")
    assert [record.name for record in model.last_trace] == ["random"]


def test_the_random_control_follows_the_picture(model, cases):
    """Same picture, same draw, alone or beside another; another picture, another draw."""
    kept = []
    for case in (cases[0], cases[1], cases[0]):
        answer(model, case, "random:16")
        kept.append(model.last_trace[0].kept[0].tolist())
    assert kept[0] == kept[2]
    same_picture = torch.equal(cases[0]["images"], cases[1]["images"])
    assert (kept[0] == kept[1]) == same_picture


@pytest.mark.parametrize("name", [name for name in method_names() if get_method(name).wants_keep])
def test_anyres_pictures_keep_the_budget_of_one_image(llava16, name):
    """A picture of several crops is one image of many tokens: the budget is the picture's, not a crop's."""
    sites = get_method(name).sites
    case = next(case for case in llava16.cases() if case["images"])
    inputs = llava16.inputs(case)
    if name == "m3":
        pytest.skip("knows no budget but a number of square cells of one crop")
    keep = 150 if "tower" in sites else 20  # a tower of two layers can merge no more
    plan = f"{name}@2:{keep}" if "layer" in sites else f"{name}:{keep}"
    if name == "vscan":  # its budget is a mean over the layers, and layer 5 lies beyond this tower
        plan = f"vscan@features:{keep},shallow=0"
    if Need.CLIP in get_method(name)().needs:  # this tower came without CLIP's text side
        plan += ",relevance=embeddings"
    with torch.no_grad(), reduced(llava16.model, plan):
        llava16.model(**inputs)
    entered = llava16.model.model.last_visual_per_layer[:, 0].tolist()
    if "layer" in sites:
        assert entered[1] > 576 and entered[2] == 20 * len(case["images"])
    elif set(sites) & set(BATCHED_SITES):  # there a budget is for each crop
        (stage,), crops = plan_from(plan), sum(map(sum, llava16.model._last_vision.crops))
        assert set(entered) == {crops * stage.reducer.left(576, keep)}
    else:
        assert set(entered) == {20 * len(case["images"])}


def test_downsampling_shrinks_the_picture_before_the_tower(model, cases):
    """Fewer patches, a cheaper tower, and the same from raw features that were encoded under the plan."""
    costs = {}
    for plan, tokens in (
        ("full", 576),
        ("downsample:64", 64),
        ("downsample:0.1", 49),
        ("downsample:100+fastv@2:9", 100),
    ):
        with torch.no_grad(), reduced(model, plan):
            whole = model(**cases[0]).logits[0, -1]
            (costs[plan],) = model.last_cost()
            assert costs[plan].visual_per_layer[0] == tokens
            raw = model.encode_raw(cases[0]["images"])
            assert raw[0].shape[0] == tokens
            again = model(cases[0]["input_ids"], raw_vision_features=raw).logits[0, -1]
            torch.testing.assert_close(again, whole, rtol=0, atol=1e-5)
    assert costs["downsample:100+fastv@2:9"].visual_per_layer[2:] == [9] * 6
    assert costs["downsample:64"].tower_flops < costs["full"].tower_flops / 7
    assert costs["downsample:64"].projector_flops == costs["full"].projector_flops / 9


def test_downsampling_to_the_same_size_changes_nothing(model, cases):
    with torch.no_grad():
        dense = model(**cases[0]).logits
        with reduced(model, "downsample:576"):
            assert torch.equal(model(**cases[0]).logits, dense)


def test_features_of_another_size_than_the_plans_are_refused(model, cases):
    raw = model.encode_raw(cases[0]["images"])
    with reduced(model, "downsample:64"), pytest.raises(ValueError, match="of 576 patches, .* shrinks pictures to 64"):
        model(cases[0]["input_ids"], raw_vision_features=raw)


EARLY = [name for name in method_names() if {"tower", "features", "projected"} & set(get_method(name).sites)]


@pytest.mark.parametrize("name", EARLY)
def test_before_the_decoder_two_pictures_together_are_each_alone(llava15, model, cases, name):
    """Through tower, projector, splice and decoder, padded, and decoding from the cache."""
    plan, tokenizer = early_plan(name), llava15.tokenizer
    pixels = torch.cat([cases[0]["images"], cases[1]["images"].flip(-1) * 0.7])
    ids = [
        cases[0]["input_ids"][0],
        torch.cat([cases[0]["input_ids"][0], tokenizer("Why?", return_tensors="pt").input_ids[0]]),
    ]
    longest = max(map(len, ids))
    padded = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in ids])
    mask = torch.stack([torch.arange(longest) >= longest - len(row) for row in ids])
    with torch.no_grad():
        together = model.generate(padded, attention_mask=mask, images=pixels, reduction=plan, max_new_tokens=4, output_logits=True, return_dict_in_generate=True)  # fmt: skip
        for row in range(2):
            alone = model.generate(ids[row][None], images=pixels[row : row + 1], reduction=plan, max_new_tokens=4, output_logits=True, return_dict_in_generate=True)  # fmt: skip
            for step in range(2):
                torch.testing.assert_close(together.logits[step][row], alone.logits[step][0], rtol=0, atol=2e-4)
                if together.sequences[row, step] != alone.sequences[0, step]:
                    break

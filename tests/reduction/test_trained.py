"""Modules in folders: whose they are, in which precision they compute, and what they leave alone."""

from __future__ import annotations

import json

import pytest
import torch

from llava.reduction import Evidence, make_stage, plan_from
from llava.reduction.aggregate import CrossAttention
from llava.reduction.learned.trained import call_trained, load_trained, save_trained, trained_plan
from llava.reduction.mergers import MERGERS, LearnableTokenMergerV3, make_merger
from llava.reduction.methods.anywhere.condensation import Condensation
from llava.reduction.methods.anywhere.custom_selection import CustomSelection
from llava.reduction.methods.anywhere.merger import TrainedMerger

WIDTH = 16
TOKENS = torch.randn(2, 40, WIDTH, generator=torch.Generator().manual_seed(0))
KEPT = torch.arange(8).expand(2, -1)
WIDTHS = {
    "simple": {"d_model": WIDTH},
    "question_aware": {"d_vision": WIDTH, "d_text": 20, "d_internal": 12},
    "fixed_pooling": {"d_vision": WIDTH, "d_text": 20, "d_internal": 12, "use_question": False},
}


def evidence() -> Evidence:
    return Evidence(
        torch.zeros(2, dtype=torch.long), question=(torch.randn(2, 3, 20), torch.ones(2, 3, dtype=torch.bool))
    )


def trained(folder, scale: float = 1.5):
    module = CrossAttention(WIDTH, 4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale).add_(0.1)
    save_trained(module, folder, {"width": WIDTH, "heads": 4})
    return folder


def reducer(folder):
    return make_stage("condensation", site="features", keep=8, strategy="fps", heads=4, weights=str(folder)).reducer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_changes_no_later_result(tmp_path, dtype):
    folder = trained(tmp_path)
    first = reducer(folder)
    expected = first.aggregate(TOKENS, KEPT, evidence())
    other = reducer(folder).aggregate(TOKENS.to(dtype), KEPT, evidence())
    assert torch.equal(first.aggregate(TOKENS, KEPT, evidence()), expected)
    assert torch.equal(reducer(folder).aggregate(TOKENS, KEPT, evidence()), expected)
    torch.testing.assert_close(other, expected, rtol=2e-2, atol=2e-2, check_dtype=False)
    first.aggregate(TOKENS.to(dtype), KEPT, evidence())  # nor of the same stage
    assert torch.equal(first.aggregate(TOKENS, KEPT, evidence()), expected)


def test_every_stage_owns_its_module(tmp_path):
    folder = trained(tmp_path)
    first, second = reducer(folder), reducer(folder)
    with torch.no_grad():
        first.attention.q_proj.weight.zero_()
    assert second.attention.q_proj.weight.any() and reducer(folder).attention.q_proj.weight.any()


def test_folders_of_one_name_are_two_modules_and_a_changed_folder_is_read_again(tmp_path, monkeypatch):
    trained(tmp_path / "a" / "merger", 1.5), trained(tmp_path / "b" / "merger", 3.0)
    first, second = (load_trained(tmp_path / part / "merger") for part in "ab")
    assert not torch.equal(first.q_proj.weight, second.q_proj.weight)
    monkeypatch.chdir(tmp_path / "a")
    assert torch.equal(load_trained("merger").q_proj.weight, first.q_proj.weight)
    monkeypatch.chdir(tmp_path / "b")
    assert torch.equal(load_trained("merger").q_proj.weight, second.q_proj.weight)  # the same words, another folder
    trained(tmp_path / "b" / "merger", 7.0)
    assert not torch.equal(load_trained("merger").q_proj.weight, second.q_proj.weight)


def test_loading_draws_no_random_numbers(tmp_path):
    for kind, widths in WIDTHS.items():
        save_trained(make_merger(kind, num_heads=4, **widths), tmp_path / kind, {"num_heads": 4, **widths})
        torch.manual_seed(3)
        load_trained(tmp_path / kind)
        drawn = torch.rand(1)
        torch.manual_seed(3)
        assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize("kind", [*MERGERS, "condensation", "custom_selection"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_module_being_trained_keeps_its_parameters_and_learns_from_half_precision_tokens(kind, dtype):
    """The optimiser's parameters stay the same objects, float32, and get float32 gradients."""
    if kind in MERGERS:
        module = make_merger(kind, num_heads=4, merge_ratio=8, **WIDTHS[kind])
        stage = TrainedMerger(module=module)
    else:
        module = CrossAttention(WIDTH, 4)
        stage = (
            Condensation("fps", 4, attention=module) if kind == "condensation" else CustomSelection(attention=module)
        )
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    before = list(module.parameters())
    tokens, about = TOKENS.to(dtype), evidence()
    kept = stage.select(tokens, about, 8).sort(dim=1).values
    stage.aggregate(tokens, kept, about).float().square().sum().backward()
    optimiser.step()
    held = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    assert all(one is other for one, other in zip(held, before, strict=True))
    assert {parameter.dtype for parameter in held} == {torch.float32}
    grads = [parameter.grad for parameter in held if parameter.grad is not None]
    assert grads and {grad.dtype for grad in grads} == {torch.float32} and any(grad.any() for grad in grads)


def test_half_precision_computes_what_the_float32_module_says_of_rounded_tokens(tmp_path):
    module = load_trained(trained(tmp_path))
    half = TOKENS.half()
    expected = module(half[:, :8].float(), half.float(), half.float())
    assert torch.equal(call_trained(module, half[:, :8], half, half), expected)


def test_a_v3_that_first_ran_in_inference_mode_can_be_trained():
    merger = LearnableTokenMergerV3(WIDTH, None or 20, 12, num_heads=4, use_question=False)
    with torch.inference_mode():
        merger(TOKENS, keep=8)
    merger(TOKENS, keep=8)["merged_features"].sum().backward()


def test_a_plan_of_a_folder_reads_back_whatever_its_name(tmp_path):
    folder = trained(tmp_path / "a+b, c")
    (stage,) = plan_from(trained_plan(folder, 8))
    assert stage.keep == 8 and stage.reducer.weights == str(folder)


@pytest.mark.parametrize("content", ["[]", "{", '"x"', '{"merger_type": []}', '{"merger_type": "simple", "arguments": {"d_model": "a"}}',
                                     '{"merger_type": "simple", "arguments": 5}', "[" * 100_000])  # fmt: skip
def test_a_folder_that_says_nonsense_is_a_value_error(tmp_path, content):
    trained(tmp_path)
    (tmp_path / "merger.json").write_text(content)
    with pytest.raises(ValueError, match="does not describe a merger") as caught:
        load_trained(tmp_path)
    assert len(str(caught.value)) < 1000


def test_the_weights_of_another_shape_are_named(tmp_path):
    trained(tmp_path)
    about = json.loads((tmp_path / "merger.json").read_text())
    (tmp_path / "merger.json").write_text(json.dumps({**about, "arguments": {"width": 8, "heads": 4}}))
    with pytest.raises(ValueError, match="(?s)does not fit what merger.json describes.*size mismatch"):
        load_trained(tmp_path)
    (tmp_path / "merger.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="merger.safetensors does not fit"):
        load_trained(tmp_path)

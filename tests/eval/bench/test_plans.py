"""The benchmark measures what it says; how fast anything is, is no test."""

from __future__ import annotations

import json

import pytest
import torch

from llava.cli.settings import ModelSpec
from llava.eval.bench.command import main
from llava.eval.bench.timing import SELECTING, keep_all, selection_clock, selection_ms, time_plan, timed_pass
from llava.eval.bench.workload import RandomModel, Workload, open_workload, shortened
from llava.reduction import Reducer, get_method, method_names, plan_from
from llava.reduction.cost import decoder_flops
from tests.conftest import PARITY15

SIZES = "layers=3,hidden=64,text=40,vocab=50,visual=64"


@pytest.fixture(scope="module")
def work() -> Workload:
    return open_workload(RandomModel.from_text(SIZES))


@pytest.fixture(scope="module")
def llava_work() -> Workload:
    return open_workload(ModelSpec(PARITY15 / "checkpoint", conv_mode="vicuna_v1", device="cpu"))


def test_random_model_has_the_sizes_asked_for(work):
    config = work.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 64, 1)
    with pytest.raises(ValueError, match="cannot read 'depth=3'.*layers=N"):
        RandomModel.from_text("depth=3")
    for wrong in ("layers=3,layers=4", "layers=-1", "layers=\u0663", "layers"):
        with pytest.raises(ValueError, match="cannot read"):
            RandomModel.from_text(wrong)


def test_a_pass_times_every_part(work):
    found = timed_pass(work, [], steps=3)
    assert found["prefill"] > 0 and found["decode"] > 0
    assert found["end_to_end"] == pytest.approx(sum(found[part] for part in ("tower", "prefill", "decode")), abs=1e-3)
    assert timed_pass(work, [], steps=0)["decode"] < found["decode"]


def test_comparison_counts_the_rows_that_ran(work):
    found = time_plan(work, plan_from("fastv@1:16"), pairs=2, steps=2)
    config = work.model.config
    dense, rows = [104, 104, 104], [104, 56, 56]
    assert found["dense_flops"] == decoder_flops(config, dense)
    selector = found["plan_flops"] - decoder_flops(config, rows)
    assert 0 < selector < 0.05 * found["plan_flops"]
    assert found["theoretical"] == pytest.approx(found["dense_flops"] / found["plan_flops"])
    assert found["selection_ms"]["median"] > 0
    faster = found["speedup"]["prefill"]
    assert faster["min"] <= faster["median"] <= faster["max"]
    assert "tower" not in found["speedup"]


def test_the_limit_is_the_same_layers_at_the_same_rows_and_nothing_else(work):
    """Of a plan that keeps the first rows it computes what the plan does, and of no plan what transformers' Llama does."""
    embeds = torch.randn(1, 104, 64)
    with torch.no_grad():
        dense = work.model(inputs_embeds=embeds, logits_to_keep=1).logits
        torch.testing.assert_close(shortened(work.model, embeds, [104] * 3), dense)
        entered = []
        handles = [
            layer.register_forward_pre_hook(lambda module, args: entered.append(args[0].shape[1]))
            for layer in work.model.model.layers
        ]
        shortened(work.model, embeds, [104, 56, 20])
        for handle in handles:
            handle.remove()
    assert entered == [104, 56, 20]
    found = time_plan(work, plan_from("fastv@1:16"), pairs=2, steps=0)
    assert found["limit_ms"]["median"] > 0 and found["over_limit"]["min"] <= found["over_limit"]["median"]


def test_timing_a_reducer_changes_nothing(work):
    plan = plan_from("fastv@1:16")
    timed_pass(work, plan, steps=0)
    plain = work.model.model.last_trace[0].kept
    with selection_clock(plan) as seconds:
        timed_pass(work, plan, steps=0)
    assert torch.equal(work.model.model.last_trace[0].kept, plain)
    assert len(seconds) == 2 and all(second > 0 for second in seconds)  # a choice and a merge
    timed_pass(work, plan, steps=0)
    assert len(seconds) == 2 and not {*SELECTING} & set(vars(plan[0].reducer))


@pytest.mark.parametrize("name", method_names())
def test_a_timed_reducer_keeps_every_method_and_trait(name):
    """A wrapper that repeats the methods it knows forgets those that are added later, as shrink, left and options were."""
    stage = plan_from({"method": name, "keep": 1.0}) if get_method(name).wants_keep else plan_from({"method": name})
    (reducer,) = {stage.reducer for stage in stage}
    public = [member for member in dir(Reducer) if not member.startswith("_") and member not in SELECTING]
    before = {member: getattr(reducer, member, None) for member in public}
    with selection_clock(stage):
        assert {member: getattr(reducer, member, None) for member in public} == before
        assert isinstance(reducer, get_method(name)) and reducer.options() == before["options"]()


@pytest.mark.parametrize(
    "text", ["downsample:64", "tome:300", "fastervlm:64", "pool:64", "grid:64+fastv@2:16", "blind@2"]
)
def test_every_site_can_be_timed(llava_work, text):
    plan = plan_from(text)
    llava_work.check(plan)
    assert selection_ms(llava_work, plan, repeats=1)["median"] > 0


def test_a_stage_that_a_random_model_would_ignore_is_refused(work):
    with pytest.raises(ValueError, match="pool:16 acts before the decoder, and a random model has no vision tower"):
        work.check(plan_from("pool:16"))


def test_keep_all_throws_nothing_away(work):
    plan = keep_all(plan_from("fastv@1:16"))
    timed_pass(work, plan, steps=0)
    assert work.model.model.last_visual_per_layer[:, 0].tolist() == [64] * 3


def test_llava_checkpoint_with_its_tower(llava_work):
    found = time_plan(llava_work, plan_from("fastv@2:64"), pairs=1, steps=1)
    assert found["plan_ms"]["tower"]["median"] > 0
    assert found["theoretical"] > 1.5
    assert llava_work.about["template"] == "vicuna_v1"


@pytest.mark.parametrize("text", ["fastervlm:64", "tome:300"])
def test_a_tower_that_a_plan_reads_or_changes_is_on_both_sides(llava_work, text):
    """It is timed apart from the prefill, and what is compared with dense has both towers in it."""
    found = time_plan(llava_work, plan_from(text), pairs=1, steps=1)
    assert found["compared"] == "first_token"
    for kind in ("dense_ms", "plan_ms"):
        parts = {part: found[kind][part]["median"] for part in ("tower", "prefill", "first_token")}
        assert parts["tower"] > 0 and parts["first_token"] == pytest.approx(parts["tower"] + parts["prefill"])
    behind = time_plan(llava_work, plan_from("fastv@2:64"), pairs=1, steps=1)
    assert behind["compared"] == "prefill" and found["dense_flops"] > behind["dense_flops"]


def test_command_line_writes_what_it_printed(tmp_path, capsys):
    output = tmp_path / "bench.json"
    flags = [
        "--random-model",
        SIZES,
        "--device",
        "cpu",
        "--reduction",
        "fastv@1:16",
        "--pairs",
        "1",
        "--decode-tokens",
        "1",
    ]
    assert main([*flags, "--overhead", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert [one["plan"] for one in found["plans"]] == ["fastv@1-16", "fastv@1-1.0"]
    assert found["dense_memory"]["peak"] > 50 and found["plans"][0]["memory"]["peak"] > 50
    assert found["device"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--reduction", "fastv@2:64"], "either --model-path or --random-model"),
        (["--random-model", SIZES], "at least one --reduction"),
        (["--random-model", SIZES, "--reduction", "fastv@7:64"], "out of range"),
        (["--random-model", SIZES, "--reduction", "fastv@1:64", "--pairs", "0"], "pairs=0"),
        (["--random-model", SIZES, "--reduction", "fastv@1:64", "--dtype", "float31"], "dtype='float31'"),
        (["--random-model", SIZES, "--reduction", "fastv@1:64", "--threads", "0"], "threads=0"),
        (["--random-model", SIZES, "--reduction", "pool:16"], "has no vision tower"),
        (["--selectors", "--keep", "0"], "keep=0 must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, caplog, flags, message):
    assert main([*flags, "--no-memory", "--output", str(tmp_path / "bench.json")]) == 2
    assert message in caplog.text

"""The benchmark measures what it says; how fast anything is, is no test."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
import torch

from llava.eval.bench.plans import Timed, compare, keep_all, llava_workload, main, one_pass, random_workload
from llava.reduction import plan_from
from llava.reduction.cost import decoder_flops
from tests.conftest import PARITY15

SIZES = "layers=3,hidden=64,text=40,vocab=50,visual=64"


@pytest.fixture(scope="module")
def work():
    return random_workload(SIZES, "cpu", torch.float32)


def test_random_model_has_the_sizes_asked_for(work):
    config = work.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 64, 1)
    with pytest.raises(ValueError, match="cannot read 'depth=3'.*layers=N"):
        random_workload("depth=3", "cpu", torch.float32)


def test_a_pass_times_every_part(work):
    found = one_pass(work, [], steps=3)
    assert found["prefill"] > 0 and found["decode"] > 0
    assert found["end_to_end"] == pytest.approx(sum(found[part] for part in ("tower", "prefill", "decode")), abs=1e-3)
    assert one_pass(work, [], steps=0)["decode"] < found["decode"]


def test_comparison_counts_the_rows_that_ran(work):
    found = compare(work, plan_from("fastv@1:16"), pairs=2, steps=2)
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


def test_timing_a_reducer_changes_nothing(work):
    (stage,) = plan_from("fastv@1:16")
    one_pass(work, [stage], steps=0)
    plain = work.model.model.last_trace[0].kept
    one_pass(work, [replace(stage, reducer=Timed(stage.reducer))], steps=0)
    assert torch.equal(work.model.model.last_trace[0].kept, plain)


def test_keep_all_throws_nothing_away(work):
    plan = keep_all(plan_from("fastv@1:16"))
    one_pass(work, plan, steps=0)
    assert work.model.model.last_visual_per_layer[:, 0].tolist() == [64] * 3


def test_llava_checkpoint_with_its_tower():
    arguments = argparse.Namespace(model_path=str(PARITY15 / "checkpoint"), conv_mode="vicuna_v1", device="cpu")
    found = compare(llava_workload(arguments), plan_from("fastv@2:64"), pairs=1, steps=1)
    assert found["plan_ms"]["tower"]["median"] > 0
    assert found["theoretical"] > 1.5


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
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, caplog, flags, message):
    assert main([*flags, "--no-memory", "--output", str(tmp_path / "bench.json")]) == 2
    assert message in caplog.text

"""The command: its page's example, JSON, what is left out, bad input in one line, and milliseconds."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from llava.cost import Prompt, estimates, from_config, preset
from llava.cost.command import main
from llava.cost.measure import _check_fits, timings
from llava.cost.printing import per_layer
from llava.reduction.accounting import labels
from tests.cost.hosts import CONFIGS, config_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cost.md"
QWEN = ["--host", "qwen2.5-vl-7b", "--image", "1280x720", "--text", "60"]


def test_the_page_shows_what_its_command_prints(capsys):
    ((command, shown),) = re.findall(
        r"```bash\npython -m llava\.cost (.+?)\n```\n\n```text\n(.+?)```", PAGE.read_text(), re.S
    )
    assert main(shlex.split(command.replace("\\\n", " "))) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in printed if line] == [line for line in shown.splitlines() if line]


def test_json_holds_the_table(capsys):
    assert main([*QWEN, "--reduction", "fastv@2:25%", "--reduction", "divprune:128", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["host"], found["images"], found["text"], found["batch"]) == ("qwen2.5-vl-7b", [[1280, 720]], 60, 1)
    full, fastv, divprune = found["plans"]
    assert [plan["plan"] for plan in found["plans"]] == ["full", "fastv@2:0.25", "divprune:128"]
    assert full["stretches"] == [[28, 1196]] and fastv["stretches"] == [[2, 1196], [26, 299]]
    assert full["speedup"] == 1 and divprune["stretches"] == [[28, 128]]
    for plan in found["plans"]:
        cost = plan["cost"]
        parts = ("tower_flops", "projector_flops", "selector_flops", "llm_flops")
        assert cost["total_flops"] == sum(cost[part] for part in parts)
        assert plan["speedup"] <= plan["ceiling"] == full["ceiling"]


def test_a_batch_and_several_pictures():
    host = preset("qwen2.5-vl-7b")
    one, two, four = (
        estimates(host, prompt, ["fastv@2:64"])
        for prompt in (
            Prompt(((640, 480),)),
            Prompt(((640, 480), (640, 480))),
            Prompt(((640, 480),), batch=4),
        )
    )
    for alone, both, batch in zip(one, two, four):
        assert both.cost.visual_per_layer == [2 * count for count in alone.cost.visual_per_layer]
        assert both.cost.tower_flops == 2 * alone.cost.tower_flops
        assert batch.cost.total_flops == 4 * alone.cost.total_flops and batch.cost.kv_bytes == 4 * alone.cost.kv_bytes
        assert batch.decode_flops == 4 * alone.decode_flops and batch.speedup == alone.speedup
    assert one[0].cost.kv_bytes == 28 * one[0].cost.rows_per_layer[0] * 2 * 4 * 128 * 2


def test_the_ceiling_is_what_no_picture_would_cost():
    rows = estimates(preset("llava-1.5-7b"), Prompt(((336, 336),)), ["blind", "downsample:144", "fastv@2:0"])
    assert rows[1].speedup == rows[1].ceiling > rows[3].speedup  # blind: nothing is projected either
    assert rows[2].cost.tower_flops < rows[0].cost.tower_flops / 3 and rows[2].ceiling > rows[0].ceiling


def test_shares_are_those_of_the_accounting_page():
    published = [label for label in labels(ROOT / "configs/methods") if label.label == "128"]
    full, *rows = estimates(preset("llava-1.5-7b"), Prompt(((336, 336),)), [label.plan for label in published])
    assert len(published) > 20
    for row, label in zip(rows, published, strict=True):
        assert row.cost.visual_tokens == label.mean and row.cost.visual_per_layer[-1] == label.last
        assert row.cost.llm_flops / full.cost.llm_flops == pytest.approx(label.flops)
        assert row.cost.kv_bytes / full.cost.kv_bytes == pytest.approx(label.kv)
        assert row.cost.selector_flops / full.cost.llm_flops == pytest.approx(label.selection)


def test_windows_bound_the_cache():
    host = preset("gemma3-4b")
    short, long = (estimates(host, Prompt(((896, 896),), text), [])[0].cost for text in (100, 4000))
    rows = 4000 + 256 + 4
    windowed = sum(kind == "sliding_attention" for kind in host.family.text.layer_types)
    assert short.kv_bytes == 34 * 360 * 2 * 4 * 256 * 2
    assert long.kv_bytes == (windowed * 1023 + (34 - windowed) * rows) * 2 * 4 * 256 * 2


def test_an_adaptive_method_is_marked(capsys):
    assert main([*QWEN, "--reduction", "trim:128,adaptive=true,relevance=embeddings"]) == 0
    out = capsys.readouterr().out
    assert "~128" in out and "~28x128" in out and "the pictures decide" in out
    main([*QWEN, "--reduction", "divprune:128"])
    assert "~" not in capsys.readouterr().out


def test_stretches():
    assert per_layer([5] * 3) == "3x5"
    assert per_layer([9, 9, 7, 6, 5, 4, 4]) == "2x9, 1x7, 1x6, ..., 2x4"


def test_the_list(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "qwen2.5-vl-7b" in out and "OpenGVLab/InternVL3-8B-hf" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--host", "qwen2.5-vl-7", "--image", "9x9"],
            "host 'qwen2.5-vl-7' is not known; did you mean 'qwen2.5-vl-7b'",
        ),
        (["--host", "qwen2.5-vl-7b"], "no picture is given"),
        ([*QWEN, "--image", "1280*720"], "--image '1280*720' is no size; write width x height"),
        ([*QWEN, "--image", "0x720"], "--image '0x720' is no size"),
        ([*QWEN, "--image", "10x9000"], "aspect ratio"),
        ([*QWEN, "--text", "0"], "text=0 must be a whole number of at least 1"),
        ([*QWEN, "--batch", "0"], "batch=0 must be"),
        ([*QWEN, "--reduction", "fastv@40:64"], "qwen2.5-vl-7b: layer=40 of fastv@40:64 is out of range"),
        ([*QWEN, "--reduction", "fastvv@2:64"], "did you mean 'fastv'"),
        ([*QWEN, "--reduction", "divprune:5000"], "exceeds the 1196 image tokens"),
        ([*QWEN, "--reduction", "visionzip:128"], "give the method's option saliency=mean_attention"),
        ([*QWEN, "--reduction", "cdpruner:128"], "give relevance=embeddings"),
        ([*QWEN, "--reduction", "tome:64"], "qwen2.5-vl-7b: tome:64 acts at site='tower', but the tower of this model"),
        ([*QWEN, "--processor", "max_pixels"], "write a name and a number"),
        ([*QWEN, "--processor", "max_pixels=0"], "max_pixels=0 must be"),
        ([*QWEN, "--processor", "tile=64"], "it knows min_pixels, max_pixels"),
        ([*QWEN, "--config", "x.json"], "give either --host or --config"),
        ([*QWEN, "--dtype", "float17"], "is no type of torch"),
        (["--image", "9x9"], "give either --host or --config"),
        (["--config", "nowhere/config.json", "--image", "9x9"], "nowhere"),
        (
            ["--host", "llava-1.5-7b", "--image", "9x9", "--reduction", "tome:144", "--measure"],
            "and tome:144 changes it",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, message, caplog, capsys):
    assert main(arguments) == 2
    assert message in caplog.text and "Traceback" not in caplog.text and not capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "qwen3_vl_moe"}, "model_type='qwen3_vl_moe' cannot be counted; did you mean 'qwen3_vl'"),
        ({"model_type": "llava_llama"}, "names no tower"),
        ({"model_type": "llava", "mm_vision_tower": "nobody/knows"}, "the sizes of the tower 'nobody/knows' are not known"),
        ({**CONFIGS["llava"], "text_config": {"model_type": "mixtral"}}, "the decoder 'mixtral' is a mixture of experts"),
        ({**CONFIGS["llava"], "text_config": {"model_type": "gpt2"}}, "the decoder 'gpt2' is not known"),
        ({**CONFIGS["llava"], "vision_config": {"model_type": "dinov2"}}, "the tower 'dinov2' cannot be counted"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_counted(content, message, tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert main(["--config", str(tmp_path), "--image", "64x64"]) == 2
    assert message in caplog.text


@pytest.mark.parametrize("name", CONFIGS)
def test_milliseconds_of_every_family(name, tmp_path):
    config_of(name).save_pretrained(tmp_path)
    host, prompt = from_config(tmp_path), Prompt(((56, 56),), text=8)
    rows = estimates(host, prompt, ["fastv@2:4"])
    dense, fastv = timings(host, prompt, rows, torch.device("cpu"), torch.float32, repeats=3)
    assert dense.tower_ms == fastv.tower_ms > 0
    assert dense.speedup == {"median": 1, "min": 1, "max": 1}
    assert 0 < fastv.speedup["min"] <= fastv.speedup["median"] <= fastv.speedup["max"]


def test_half_precision_is_measured_too(tmp_path):
    for name in ("llava_onevision", "qwen2_5_vl", "smolvlm"):
        config_of(name).save_pretrained(tmp_path)
        host, prompt = from_config(tmp_path), Prompt(((56, 56), (28, 56)), text=8, batch=2)
        rows = estimates(host, prompt, [])
        (dense,) = timings(host, prompt, rows, torch.device("cpu"), torch.bfloat16, repeats=1)
        assert dense.tower_ms > 0 and dense.layers_ms["median"] > 0


def test_measuring_through_the_command(tmp_path, capsys):
    config_of("llava").save_pretrained(tmp_path)
    words = ["--config", str(tmp_path), "--image", "28x28", "--reduction", "fastv@2:4", "--measure", "--repeats", "2"]
    assert main([*words, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "a sum over layers" in out and "KV in float32" in out and "threads" in out
    assert main([*words, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] and found["plans"][1]["measured"]["layers_ms"]["median"] > 0


def test_what_does_not_fit_is_not_tried(monkeypatch):
    monkeypatch.setattr("llava.cost.measure._free_bytes", lambda device: 10)
    with pytest.raises(ValueError, match="the tower needs about .* GB, and 0.0 GB are free on cpu"):
        _check_fits(torch.nn.Linear(9, 9), torch.float32, torch.device("cpu"), "the tower")

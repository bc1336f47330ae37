"""A sweep really prunes, costs less than dense runs, keeps the documented keys, and is compared question by question."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.eval.ask.subject import Generation
from llava.eval.results.folder import read_predictions
from llava.experiments.rank_compare import compare, main, read
from llava.experiments.rank_sweep import Ranked
from llava.reduction import plan_from
from tests.conftest import PARITY15

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_ranks_are_those_of_the_tokens_left(subject):
    features = subject.encode([Image.open(PARITY15 / f"image{number}.png").convert("RGB") for number in range(2)])
    texts, ranked = ["What?", "Is there a dog in the picture?"], Ranked(subject, 2)
    for spec, tokens in (("fastv@2:576", 576), ("fastv@2:20", 20), ("blind@2", 0)):
        replies = ranked.answer(texts, features, plan_from(spec), Generation(1))
        plains = subject.answer(texts, features, plan_from(spec), Generation(1))
        for reply, plain in zip(replies, plains):
            assert reply.text == plain.text and reply.kept[-1] == tokens
            assert 0.5 * tokens <= reply.cost["numeric_rank"] <= tokens
            assert reply.cost["effective_rank"] <= reply.cost["effective_rank_roy_vetterli"] <= max(tokens, 0)
        # 2 of 8 dense layers; 2 * 64 * 420 is the output layer's share
        if spec == "fastv@2:576":
            dense = [plain.cost["llm_flops"] - 2 * 64 * 420 for plain in plains]
        expected = [0 if spec == "fastv@2:576" else whole / 4 for whole in dense]
        assert [reply.cost["reused_flops"] for reply in replies] == pytest.approx(expected)


@pytest.fixture
def sweep(analyse, tmp_path):
    """Runs a small sweep and returns its JSON."""

    def run(method: str, *flags: str, step: int = 560) -> dict:
        file = f"{method}.json"
        grid = ["--step", str(step), "--results", "runs", "--output-file", file, "--output-plot", f"{method}.png"]
        assert analyse("experiments.rank_sweep", "--method", method, *grid, *flags, task="scienceqa") == 0
        return json.loads((tmp_path / file).read_text())

    return run


def test_documented_keys_and_true_pruning(sweep, tmp_path):
    held = sweep("text_weighted", step=280)
    assert held["tokens"] == [576, 296, 16] and held["last_layer"] == 7
    for key in ("accuracies", "layer7_numeric_ranks", "layer7_effective_ranks", "visual_tokens", "gflops"):
        assert len(held[key]) == len(held["controls"]["random"][key]) == 3
    assert held["layer7_numeric_ranks"] == pytest.approx(held["tokens"], rel=0.1)
    lines = read_predictions(tmp_path / "runs" / "text_weighted@2-16" / "predictions.jsonl")
    assert [line["kept"] for line in lines] == [[576] * 2 + [16] * 6] * 2
    assert held["accuracies"][0] == held["controls"]["random"]["accuracies"][0] == held["baseline_acc"]
    assert [len(marks) for marks in held["correct"]] == [2] * 3
    assert held["price"]["gflops_ratio"] < 0.6
    assert np.asarray(Image.open(tmp_path / "text_weighted.png").convert("L")).std() > 5


def test_price_by_hand(sweep, tmp_path):
    """Every picture here is asked once: the tower counts once a question, not once a budget, and layers 0 and 1 neither."""
    price = sweep("fastv", "--no-controls")["price"]
    runs = [read_predictions(tmp_path / "runs" / f"fastv@2-{keep}" / "predictions.jsonl") for keep in (576, 16)]
    total, tower, reused = (
        [sum(line["cost"][name] for line in lines) for lines in runs]
        for name in ("total_flops", "tower_flops", "reused_flops")
    )
    assert reused[0] == 0 and reused[1] > 0
    expected = sum(total) - tower[1] - reused[1]
    assert price["gflops"] == pytest.approx(expected / 1e9, rel=1e-4)
    assert price["gflops_of_dense_runs"] == pytest.approx(2 * total[0] / 1e9, rel=1e-4)


def test_sweeps_are_compared_and_share_their_controls(sweep, tmp_path, capsys):
    first, second = sweep("text_weighted"), sweep("fastv")
    assert first["controls"]["random"]["accuracies"] == second["controls"]["random"]["accuracies"]
    assert main(["text_weighted.json", "fastv.json"]) == 0
    pairs = json.loads((tmp_path / "rank_comparison.json").read_text())
    names = [(pair["first"], pair["second"]) for pair in pairs]
    assert names == [("text_weighted@2", "random@2"), ("text_weighted@2", "fastv@2"), ("random@2", "fastv@2")]
    assert "text_weighted@2" in capsys.readouterr().out and (tmp_path / "rank_comparison.png").is_file()


def made(tmp_path, name: str, **changes) -> Path:
    """A sweep's file: two budgets, four questions on two pictures."""
    table = {
        "tokens": [8, 4],
        "correct": ["1111", "1100"],
        "accuracy_intervals": [[1, 1], [0, 1]],
        "layer3_effective_ranks": [5.0, 3.0],
    }
    held = {"method": name, "pruning_layer": 2, "last_layer": 3, "pictures": ["a", "a", "b", "b"], "controls": {}}
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps({**held, **table, **changes}))
    return file


def test_a_difference_by_hand(tmp_path):
    """Mean over the budgets: (1, 1, .5, .5) against (1, 1, 0, 0), so 25 points; two pictures leave nearly all open."""
    (first,), (second,) = read(made(tmp_path, "one")), read(made(tmp_path, "two", correct=["1100", "1100"]))
    found = compare(first, second)
    assert found["accuracy"] == [75, 50] and found["difference"] == 25 and found["interval"] == [-100, 100]
    assert found["verdict"] == "not distinguishable" and found["effective_rank"] == [4, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pictures": ["a", "a", "c", "c"]}, "have other questions"),
        ({"tokens": [7, 3]}, "have no budget in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, caplog, changes, message):
    files = [str(made(tmp_path, "one")), str(made(tmp_path, "two", **changes))]
    assert main(files) == 2
    assert message in caplog.text


@pytest.mark.parametrize("content", ["[]", "{", '{"tokens": []}'])
def test_a_file_that_is_no_sweep_is_named(tmp_path, caplog, content):
    (tmp_path / "other.json").write_text(content)
    assert main([str(tmp_path / "other.json")]) == 2
    assert "other.json is not what rank_sweep writes" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pruning-layer", "8"], "--pruning-layer 8 must be 1 to 7"),
        (["--least", "577"], "--least 577 between 1 and the 576 tokens"),
        (["--step", "0"], "--step 0 must be at least 1"),
    ],
)
def test_bad_input_ends_with_a_sentence(analyse, caplog, flags, message):
    assert analyse("experiments.rank_sweep", *flags, task="scienceqa") == 2
    assert message in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "analyze_scienceqa_attention_heads",
        "attn_disruption",
        "compare_rank_experiments",
        "fastv_rank_experiment",
        "fastv_textweighted_experiment",
        "observe_mme_attention",
        "observe_mme_entropy",
        "saliency_mme",
        "saliency_scivqa",
        "sample_level_attention_analysis",
        "visualize_mme_attention_heatmap",
    ],
)
def test_every_script_shows_its_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0 and "--output" in capsys.readouterr().out

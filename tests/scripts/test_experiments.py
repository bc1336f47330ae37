"""Each experiment of the documents runs on a tiny model, writes what is documented, and really prunes."""

from __future__ import annotations

import importlib.util
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava.eval.ask.subject import Generation, LlavaSubject
from llava.eval.results.folder import read_predictions
from llava.experiments.diversity import Diversity
from llava.reduction import Evidence
from llava.shapes.export import export
from tests.conftest import PARITY15

SCRIPTS = Path(__file__).parents[2] / "scripts"
DEPTH, TOKENS, PLACE = 8, 576, 57  # of the tiny model: layers, image tokens, prompt before them
MME_KEYS = {"layers", "total_scores", "perception_scores", "cognition_scores", "subtask_scores"}
ACCURACY_KEYS = {"layers", "accuracies", "correct_counts", "total_samples", "baseline_acc", "baseline_correct"}
COST_KEYS = {"plans", "visual_tokens", "gflops", "kv_mb", "ms_per_question"}
SWEEP = ["--start-layer", "3", "--end-layer", "4"]


def script(name: str):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    export("mme", folder / "mme", images=1)
    export("scienceqa", folder / "scienceqa", images=4)
    return folder


@pytest.fixture
def run(data, tmp_path, monkeypatch, llava15):
    """Runs a script in a folder of its own on two questions; ``run.loads`` counts how often it asked for the model.

    The model is random, so its words are replaced by a yes, no, A or B that depends on the question and on what was kept.
    """
    monkeypatch.chdir(tmp_path)
    real = LlavaSubject.answer

    def answer(self, texts, features, plan, generation):
        replies = real(self, texts, features, plan, Generation(max_new_tokens=1))
        coins = [zlib.crc32(f"{text}{reply.kept}".encode()) % 2 for text, reply in zip(texts, replies)]
        words = [("A", "B") if "\nA. " in text else ("Yes", "No") for text in texts]
        return [replace(reply, text=pair[coin]) for reply, pair, coin in zip(replies, words, coins)]

    monkeypatch.setattr(LlavaSubject, "answer", answer)

    def load(spec):
        started.loads += 1
        return llava15.tokenizer, llava15.model, llava15.image_processor, None

    def started(name: str, benchmark: str, *flags: str) -> int:
        files = {"mme": data / "mme", "scienceqa": data / "scienceqa" / "himap-inference-MCQ.json"}
        common = ["--model-path", str(PARITY15 / "checkpoint"), "--device", "cpu", "--num-samples", "2"]
        common += ["--question-file", str(files[benchmark]), "--results", "runs"]
        return script(name).main([*common, *flags])

    started.loads = 0
    monkeypatch.setattr("llava.eval.ask.opening.load_model", load)
    return started


def read(file: str) -> dict:
    return json.loads(Path(file).read_text())


def kept(plan: str) -> list[int]:
    """Visual tokens layer by layer of a plan's run, which must be alike for all its questions."""
    found = {tuple(line["kept"]) for line in read_predictions(Path("runs") / plan / "predictions.jsonl")}
    assert len(found) == 1
    return list(found.pop())


def steps(*counts: tuple[int, int]) -> list[int]:
    """``(layer, tokens)`` from which on as a list over all layers."""
    found = [TOKENS] * DEPTH
    for layer, tokens in counts:
        found[layer:] = [tokens] * (DEPTH - layer)
    return found


def is_drawn(file: str, panels: int) -> bool:
    """Whether a figure has ink of several colours in each of its panels."""
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    parts = np.array_split(pixels[: int(0.8 * len(pixels))], panels, axis=1)
    coloured = [(part.max(axis=2) - part.min(axis=2) > 60).sum() for part in parts]
    return all(count > 60 for count in coloured)


def test_condensation(run):
    assert run("mme_condensation_experiment", "mme", "--run-all", "--target-tokens", "16", *SWEEP) == 0
    found = read("mme_condensation_results.json")
    names = ["hard_pruning", "condensation_fps", "condensation_connectivity"]
    assert list(found) == [*names, "random", "full", "blind"]
    for name in [*names, "random"]:
        assert MME_KEYS | COST_KEYS <= set(found[name])
        assert found[name]["layers"] == [3, 4]
        assert found[name]["visual_tokens"] == [(3 * 576 + 5 * 16) / 8, (4 * 576 + 4 * 16) / 8]
        for plan, layer in zip(found[name]["plans"], (3, 4)):
            assert kept(plan) == steps((layer, 16))
        for total, parts in zip(found[name]["total_scores"], found[name]["subtask_scores"]):
            assert total == pytest.approx(sum(parts.values()))
    assert found["hard_pruning"]["plans"] == ["himap@3-16", "himap@4-16"]
    assert found["condensation_fps"]["plans"][0] == "condensation@3-16_strategy=fps"
    assert found["full"]["visual_tokens"] == [576] and found["blind"]["visual_tokens"] == [0]
    assert is_drawn("mme_condensation_comparison.png", panels=3)


def test_condensation_of_one_kind_is_the_documents_quick_test(run):
    flags = ["--run-condensation-connectivity", "--target-tokens", "16", "--no-controls", *SWEEP]
    assert run("mme_condensation_experiment", "mme", *flags) == 0
    assert list(read("mme_condensation_results.json")) == ["condensation_connectivity", "full"]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["condensation@3-16", "condensation@4-16", "full"]


@pytest.mark.parametrize(
    ("name", "benchmark", "stem", "keys"),
    [
        ("mme_cutoff_experiment", "mme", "mme_layer_cutoff", MME_KEYS),
        ("fastv_layer_cutoff_experiment", "scienceqa", "fastv_layer_cutoff", ACCURACY_KEYS),
    ],
)
def test_cut_off(run, name, benchmark, stem, keys):
    assert run(name, benchmark, "--start-layer", "2", "--end-layer", "3") == 0
    found = read(f"{stem}_results.json")
    assert keys | COST_KEYS <= set(found) and set(found["controls"]) == {"random", "full", "blind"}
    assert found["layers"] == [2, 3] and found["plans"] == ["blind@2", "blind@3"]
    assert [kept(plan) for plan in found["plans"]] == [steps((2, 0)), steps((3, 0))]
    # The control sees as much on the mean: a quarter of the picture in all eight layers is all of it in two.
    assert found["visual_tokens"] == found["controls"]["random"]["visual_tokens"] == [144, 216]
    assert kept("random-0.25") == [144] * 8
    assert is_drawn(f"{stem}_plot.png", panels=2 if benchmark == "mme" else 1)


def test_all_controls_cost_the_same_on_the_mean(run):
    flags = ["--kept-tokens", "16", "--start-layer", "4", "--end-layer", "4", "--all-controls"]
    assert run("fastv_sparse_layer_experiment", "scienceqa", *flags) == 0
    found = read("fastv_sparse_layer_results.json")
    names = ["random", "random, seed 1", "random, seed 2", "grid", "pool", "downsample", "full", "blind"]
    assert list(found["controls"]) == names
    for name in names[:5]:
        assert found["controls"][name]["visual_tokens"] == found["visual_tokens"] == [296]
    assert found["controls"]["downsample"]["visual_tokens"] == [289]
    assert kept("random@4-16_seed=2") == steps((4, 16)) and kept("grid-296") == [296] * 8


def test_at_the_models_depth_the_cut_off_is_the_baseline(run):
    assert run("fastv_layer_cutoff_experiment", "scienceqa", "--start-layer", "8", "--no-controls") == 0
    found = read("fastv_layer_cutoff_results.json")
    assert found["layers"] == [8] and found["plans"] == ["full"]
    assert found["accuracies"] == [found["baseline_acc"]] and found["correct_counts"] == [found["baseline_correct"]]
    assert found["total_samples"] == 2


def test_sparse(run):
    assert run("fastv_sparse_layer_experiment", "scienceqa", *SWEEP) == 0
    found = read("fastv_sparse_layer_results.json")
    assert ACCURACY_KEYS | COST_KEYS <= set(found) and found["kept_tokens"] == 8
    assert found["plans"] == ["fastv@3-8", "fastv@4-8"]
    assert found["controls"]["random"]["plans"] == ["random@3-8", "random@4-8"]
    assert kept("fastv@3-8") == kept("random@3-8") == steps((3, 8))
    assert is_drawn("fastv_sparse_layer_plot.png", panels=1)


@pytest.mark.parametrize("placement", ["drop", "zero_fill"])
def test_custom_selection_over_layers(run, placement):
    flags = ["--selection-method", "tome", "--kept-tokens", "4", "--custom-placement", placement]
    assert run("fastv_custom_selection_experiment", "scienceqa", *flags, "--end-layer", "2", "--start-layer", "2") == 0
    found = read("custom_selection_results.json")
    assert ACCURACY_KEYS | COST_KEYS <= set(found)
    assert (found["kept_tokens"], found["selection_method"]) == (4, "tome")
    (plan,), (chance,) = found["plans"], found["controls"]["random"]["plans"]
    if placement == "drop":
        assert (plan, chance) == ("custom_selection@2-4_strategy=tome", "random@2-4")
        assert kept(plan) == kept(chance) == steps((2, 4))
    else:
        assert "place=zero_fill" in plan and chance == "random@2-4_place=zero_fill"
        assert found["gflops"][0] >= found["controls"]["full"]["gflops"][0]
    assert is_drawn("custom_selection_plot.png", panels=1)


def test_himap_cut_off(run):
    """HiMAP's layers 2 and 8 of 32 are 1 (at least) and 2 of 8."""
    assert run("himap_cutoff_sweep", "scienceqa", "--tag", "tiny", "--output-dir", "out", "--cutoff-end", "3") == 0
    found = read("out/himap_cutoff_sweep_tiny.json")
    himap = "himap@1-288+himap@2-72_rows=image"
    assert ACCURACY_KEYS | COST_KEYS <= set(found)
    assert found["layers"] == [0, 1, 2, 3]
    assert found["plans"] == [himap, "blind@1", "himap@1-288+blind@2", f"{himap}+blind@3"]
    assert kept(found["plans"][3]) == steps((1, 288), (2, 72), (3, 0))
    assert found["controls"]["random"]["plans"][3] == "random@1-288+random@2-72+blind@3"
    assert is_drawn("out/himap_cutoff_sweep_tiny.png", panels=1)


def test_himap_cut_off_of_other_plans(run):
    flags = ["--no-controls", "--cutoff-start", "2", "--cutoff-end", "3"]
    assert run("himap_cutoff_sweep", "scienceqa", "--output-dir", "a", "--no-use-hmap-v", *flags) == 0
    assert read("a/himap_cutoff_sweep_checkpoint.json")["plans"] == ["blind@2", "blind@3"]
    fastv = ["--use-fast-v", "--fast-v-attention-rank", "64"]
    assert run("himap_cutoff_sweep", "scienceqa", "--tag", "b", *fastv, *flags) == 0
    assert read("himap_cutoff_sweep_b.json")["plans"] == ["blind@2", "fastv@2-64+blind@3"]
    ranks = ["--hmap-v-attn-txt-rank", "99", "--hmap-v-attn-img-rank", "9"]
    assert run("himap_cutoff_sweep", "scienceqa", "--tag", "c", *ranks, *flags) == 0
    assert read("himap_cutoff_sweep_c.json")["plans"][0] == "himap@1-99+blind@2"


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_diversity(run, metric):
    flags = ["--layer-start", "1", "--layer-end", "1", "--keep-tokens", "5", "--metric", metric]
    assert run("mme_diversity_pruning_experiment", "mme", *flags) == 0
    found = read("mme_diversity_pruning_results.json")
    assert list(found) == ["fps", "tome", "random", "full", "blind"]
    suffix = "" if metric == "cosine" else ",metric=l2".replace(",", "_")
    assert found["fps"]["plans"] == [f"diversity@1-5{suffix}"]
    assert found["tome"]["plans"] == [f"diversity@1-5_strategy=tome{suffix}"]
    for name in ("fps", "tome", "random"):
        assert MME_KEYS | COST_KEYS <= set(found[name])
        assert kept(found[name]["plans"][0]) == steps((1, 5))
    assert is_drawn("mme_diversity_pruning_plot.png", panels=2)


def test_diversity_by_hand():
    """On a line at 0, 1, 2, 3 and 10 the most central point is 2 (distances 2 + 1 + 0 + 1 + 8 = 12); farthest from it is 10, then
    0. By angle the four that lie along one direction are the same, so the one that does not comes second."""
    line = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [10.0]]])
    about = Evidence(seeds=torch.zeros(1), grid=None)
    assert Diversity("fps", "l2").select(line, about, 3).tolist() == [[2, 4, 0]]
    fan = torch.tensor([[[1.0, 0.0], [5.0, 0.0], [0.0, 1.0], [2.0, 0.0]]])
    assert Diversity("fps", "cosine").select(fan, about, 2)[0].tolist() == [0, 2]
    kept = torch.tensor([[0, 2]])
    assert torch.equal(Diversity().aggregate(fan, kept, about), fan[:, [0, 2]])


def test_custom_selection_inference(run):
    flags = ["--custom-kept-tokens", "8", "--custom-selection-method", "fps", "--custom-agg-layer", "2"]
    flags += ["--custom-temperature", "0.2", "--custom-sys-length", str(PLACE), "--custom-image-token-length", "576"]
    assert run("custom_selection_inference", "scienceqa", *flags, "--custom-placement", "drop") == 0
    found = read("results_fps.json")
    assert {"accuracy", "avg_latency", "total_samples", "correct_samples", "model_config"} <= set(found)
    assert found["model_config"] == {
        "use_custom_selection": True, "sys_length": PLACE, "img_length": 576, "kept_tokens": 8, "agg_layer": 2,
        "selection_method": "fps", "temperature": 0.2, "placement": "drop",
    }  # fmt: skip
    assert found["accuracy"] == found["correct_samples"] / found["total_samples"] and found["avg_latency"] > 0
    assert kept(found["plan"]) == steps((2, 8))
    assert set(found["controls"]) == {"full", "blind", "random"}
    assert run("custom_selection_inference", "scienceqa", "--baseline", "--no-controls") == 0
    assert not read("results_baseline.json")["model_config"]["use_custom_selection"]
    assert read("results_baseline.json")["accuracy"] == found["controls"]["full"]["accuracy"]


def test_evaluation_scripts(run):
    himap = ["--use-hmap-v", "--sys-length", str(PLACE), "--img-length", "576", "--hmap-v-attn-txt-layer", "2"]
    himap += ["--hmap-v-attn-txt-rank", "64", "--hmap-v-attn-img-layer", "4", "--hmap-v-attn-img-rank", "16"]
    assert run("eval_mme", "mme", *himap, "--temperature", "0") == 0
    found = read("mme_results_himap.json")
    assert {"scores", "perception_score", "cognition_score", "total_score", "total_samples", "model_config"} <= set(
        found
    )
    assert found["total_score"] == found["perception_score"] + found["cognition_score"]
    assert kept(found["plan"]) == steps((2, 64), (4, 16))
    about = found["model_config"]
    assert (about["use_himap"], about["use_fastv"], about["sys_length"], about["img_rank"]) == (True, False, PLACE, 16)
    fastv = ["--use_fast_v", "--fast_v_attention_rank", "64", "--fast_v_token_selection_method", "weighted_combination"]
    fastv += ["--fast_v_weighted_alpha", "0.7", "--results", "scienceqa", "--no-controls"]
    assert run("eval_scivqa", "scienceqa", *fastv) == 0
    found = read("scienceqa_results_fastv_weighted_combination_alpha0.7.json")
    assert {"accuracy", "avg_latency", "total_samples", "correct_samples", "flops_info", "model_config"} <= set(found)
    assert found["flops_info"]["ratio"] == pytest.approx(found["gflops"] / found["controls"]["full"]["gflops"])
    assert 0 < found["flops_info"]["ratio"] < 1
    assert run("eval_scivqa", "scienceqa", "--results", "scienceqa", "--no-controls") == 0
    assert read("scienceqa_results_baseline.json")["flops_info"]["ratio"] == 1


def test_it_goes_on_where_it_was_stopped(run, monkeypatch):
    """Killed in the middle: no JSON; again: only what lacks is asked, the results are those of an undisturbed run."""
    assert run("fastv_sparse_layer_experiment", "scienceqa", *SWEEP, "--output-file", "whole.json") == 0
    real, asked = LlavaSubject.answer, []

    def counted(self, texts, *others):
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append(len(texts))
        return real(self, texts, *others)

    monkeypatch.setattr(LlavaSubject, "answer", counted)
    flags = [*SWEEP, "--results", "parts", "--batch-size", "1", "--output-file", "parts.json"]
    stop = 5
    assert run("fastv_sparse_layer_experiment", "scienceqa", *flags) == 130
    assert not Path("parts.json").exists()
    stop = None
    assert run("fastv_sparse_layer_experiment", "scienceqa", *flags) == 0
    assert sum(asked) == 6 * 2  # two plans, two controls, full and blind, and no question twice
    whole, parts = read("whole.json"), read("parts.json")
    assert {key: whole[key] for key in ACCURACY_KEYS} == {key: parts[key] for key in ACCURACY_KEYS}
    loads = run.loads
    assert run("fastv_sparse_layer_experiment", "scienceqa", *flags) == 0
    assert run.loads == loads  # a finished experiment draws its figure anew without a model


@pytest.mark.parametrize(
    ("name", "benchmark", "flags", "message"),
    [
        ("mme_condensation_experiment", "mme", [], "nothing to run; give --run-all"),
        ("mme_condensation_experiment", "mme", ["--run-all", "--end-layer", "9"], "--end-layer 9 must be"),
        ("mme_condensation_experiment", "mme", ["--run-all", "--start-layer", "4", "--end-layer", "3"], "start <= end"),
        ("mme_condensation_experiment", "mme", ["--run-all", "--target-tokens", "577"], "577 exceeds the 576"),
        ("mme_condensation_experiment", "mme", ["--run-all", "--target-tokens", "0"], "--target-tokens 0 must be"),
        ("mme_diversity_pruning_experiment", "mme", ["--methods", "fps,tom"], "did you mean 'tome'"),
        ("mme_diversity_pruning_experiment", "mme", ["--layer-start", "0"], "--layer-start 0"),
        ("mme_cutoff_experiment", "mme", ["--question-file", "no.json"], "--question-file no.json is not there"),
        ("mme_cutoff_experiment", "mme", ["--num-samples", "0"], "--num-samples 0"),
        ("mme_cutoff_experiment", "mme", ["--fast-v-image-token-length", "575"], "575 but the prompt says 576"),
        ("mme_cutoff_experiment", "mme", ["--model-path", "no/such/model"], "not found"),
        ("mme_cutoff_experiment", "mme", ["--conv-mode", "vicuna_v2"], "vicuna_v2"),
        ("mme_cutoff_experiment", "mme", ["--num-chunks", "3", "--chunk-idx", "3"], "--chunk-idx 3 of --num-chunks 3"),
        ("mme_cutoff_experiment", "mme", ["--output-file", "/dev/null/x.json"], "give a folder that is writable"),
        ("fastv_sparse_layer_experiment", "scienceqa", ["--kept-tokens", "600"], "--kept-tokens 600 exceeds"),
        ("himap_cutoff_sweep", "scienceqa", ["--cutoff-end", "9"], "--cutoff-end 9"),
        ("himap_cutoff_sweep", "scienceqa", ["--cut-off-layer", "3"], "is what is swept"),
        ("himap_cutoff_sweep", "scienceqa", ["--hmap-v-attn-txt-rank", "9"], "must not grow with depth"),
        ("custom_selection_inference", "scienceqa", ["--custom-agg-layer", "12"], "out of range"),
        ("custom_selection_inference", "scienceqa", ["--use-fast-v", "--fast-v-attention-rank", "9"], "both set"),
        ("eval_mme", "mme", ["--temperature", "0.2"], "--temperature 0.2"),
        ("eval_scivqa", "scienceqa", ["--use-fast-v"], "fast_v_attention_rank is None"),
    ],
)
def test_bad_input_is_one_clear_line_before_the_model_is_loaded(run, caplog, name, benchmark, flags, message):
    assert run(name, benchmark, *flags) == 2
    assert message in caplog.text and run.loads == 0


@pytest.mark.parametrize("flag", ["--fast-v-sys-length", "--fast_v_sys_length"])
@pytest.mark.parametrize("typed", ["35", "36", str(PLACE)])
def test_a_documented_place_that_is_not_the_prompts_is_said_and_the_prompts_is_used(run, caplog, flag, typed):
    flags = ["--no-controls", "--start-layer", "8", flag, typed]
    assert run("fastv_layer_cutoff_experiment", "scienceqa", *flags) == 0
    said = [message for message in caplog.messages if "is not this prompt's" in message]
    expected = f"--fast-v-sys-length {typed} is not this prompt's; the picture begins at {PLACE}, which is used"
    assert said == ([] if typed == str(PLACE) else [expected])


def test_another_setting_does_not_mix_with_the_runs_that_are_there(run, caplog):
    flags = ["--no-controls", "--start-layer", "8"]
    assert run("fastv_layer_cutoff_experiment", "scienceqa", *flags) == 0
    assert run("fastv_layer_cutoff_experiment", "scienceqa", *flags, "--no-single-pred-prompt") == 2
    assert "task.instructed is None there and False now" in caplog.text


@pytest.mark.parametrize("name", ["mme_cutoff_experiment", "himap_cutoff_sweep", "eval_mme"])
def test_help_shows_the_command_of_the_script_as_it_is_written(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        script(name).main(["--help"])
    shown = capsys.readouterr().out
    assert "--question-file" in shown and "--batch-size" in shown and f"\n    python scripts/{name}.py" in shown

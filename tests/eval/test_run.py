"""The inference loop: every picture once, every question once, and nothing lost to a stop or a torn picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.eval.ask.loop import PictureCache
from llava.eval.ask.measure import evaluate
from llava.eval.ask.pricing import method_label
from llava.eval.ask.subject import Generation, LlavaSubject
from llava.eval.results.folder import Run, read_predictions
from llava.eval.results.samples import read as read_samples
from llava.eval.run import main
from llava.eval.tasks.mme import Mme
from llava.mm_utils import load_image
from llava.reduction import plan_from
from llava.shapes.export import export
from tests.conftest import PARITY15
from tests.eval.stubs import StubSubject


@pytest.fixture
def data(tmp_path) -> Path:
    return export("mme", tmp_path / "MME-shapes", images=2)


def run_all(subject, task, folder, specs=("full",), batch_size=8):
    plans = [plan_from(spec) for spec in specs]
    runs = [Run(folder / spec, {"plan": spec}) for spec in specs]
    try:
        return evaluate(subject, task, list(zip(plans, runs)), batch_size)
    finally:
        for run in runs:
            run.__exit__()


def lines(folder: Path) -> list[dict]:
    return read_predictions(folder / "predictions.jsonl")


def test_one_line_a_question_and_the_two_summaries(data, tmp_path):
    task = Mme(data)
    (metrics,) = run_all(StubSubject(), task, tmp_path)
    found = lines(tmp_path / "full")
    assert [line["key"] for line in found] == [example.key for example in task.examples]
    assert {
        "question_id",
        "image",
        "category",
        "prompt",
        "text",
        "answer",
        "label",
        "correct",
        "kept",
        "seconds",
    } <= set(found[0])
    assert found[0]["image"] == "MME_Benchmark_release_version/existence/0001.png"
    assert metrics["accuracy"] == 0.5
    assert json.loads((tmp_path / "full/metrics.json").read_text()) == metrics
    cost = json.loads((tmp_path / "full/cost.json").read_text())
    assert cost["visual_tokens"] == 576 and cost["visual_per_layer"] == [576, 576]


def test_pictures_are_encoded_once_for_all_questions_and_plans(data, tmp_path):
    subject = StubSubject()
    run_all(subject, Mme(data), tmp_path, ("full", "fastv@2:64", "fastv@2:16"), batch_size=3)
    assert len(subject.encoded) == 16
    assert len(subject.asked) == 3 * 32
    assert max(subject.batches) == 3
    kept = [lines(tmp_path / spec)[5]["kept"] for spec in ("full", "fastv@2:64", "fastv@2:16")]
    assert kept == [[576, 576], [576, 64], [576, 16]]


@pytest.mark.parametrize("stop_at", [0, 7, 40])
def test_a_stopped_run_goes_on_where_it_was(data, tmp_path, stop_at):
    task, specs = Mme(data), ("full", "blind")
    run_all(StubSubject(), task, tmp_path / "whole", specs, batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        run_all(StubSubject(stop_at=stop_at), task, tmp_path / "parts", specs, batch_size=5)
    done = sum(len(lines(tmp_path / "parts" / spec)) for spec in specs)
    assert done <= stop_at and not (tmp_path / "parts/full/metrics.json").exists()
    subject = StubSubject()
    run_all(subject, task, tmp_path / "parts", specs, batch_size=5)
    assert len(subject.asked) == 64 - done
    for spec in specs:
        keys = [line["key"] for line in lines(tmp_path / "parts" / spec)]
        assert keys == [line["key"] for line in lines(tmp_path / "whole" / spec)]


def test_a_finished_run_asks_nothing(data, tmp_path):
    first = run_all(StubSubject(), Mme(data), tmp_path)
    subject = StubSubject()
    assert run_all(subject, Mme(data), tmp_path) == first
    assert subject.asked == subject.encoded == []


def test_a_torn_picture_fails_its_questions_only(data, tmp_path):
    root = data / "MME_Benchmark_release_version"
    torn = root / "count/0002.png"
    torn.write_bytes(torn.read_bytes()[:2000])
    (root / "OCR/0001.png").unlink()
    (root / "color/0001.png").write_text("not a picture")
    (metrics,) = run_all(StubSubject(), Mme(data), tmp_path)
    failed = {line["question_id"]: line for line in lines(tmp_path / "full") if "error" in line}
    assert set(failed) == {"count/0002.png", "OCR/0001.png", "color/0001.png"}
    assert all(name.split("/")[-1] in line["error"] and not line["correct"] for name, line in failed.items())
    assert "does not exist" in failed["OCR/0001.png"]["error"]
    assert (metrics["failed"], metrics["questions"]) == (6, 32)
    assert metrics["accuracy"] == 13 / 32
    assert json.loads((tmp_path / "full/cost.json").read_text())["questions"] == 26


def test_memory_does_not_grow_with_the_pictures(data, tmp_path, monkeypatch):
    sizes, real = [], PictureCache.load

    def watched(self, *given):
        real(self, *given)
        sizes.append(len(self.entries))

    monkeypatch.setattr(PictureCache, "load", watched)
    run_all(StubSubject(), Mme(data), tmp_path, batch_size=2)
    assert max(sizes) <= 4


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("", "full"), ("full", "full"), ("blind", "blind"), ("fastv@2:64", "fastv@2"), ("fastv@3:0.25", "fastv@3"),
        ("random@2:64,seed=1", "random@2,seed=1"), ("pool:64", "pool"), ("pool:64+fastv@2:0.5", "pool+fastv@2"),
    ],
)  # fmt: skip
def test_method_label_is_the_plan_without_its_budget(spec, label):
    assert method_label(plan_from(spec)) == label


# ------------------------------------------------------------------------------------------------- the command line


def command(data: Path, results: Path, *more: str) -> list[str]:
    return [
        "--model-path", str(PARITY15 / "checkpoint"), "--conv-mode", "vicuna_v1", "--device", "cpu",
        "--data", str(data), "--results", str(results), "--limit", "8", "--no-controls",
        "--samples", "0", *more,
    ]  # fmt: skip


def test_command_line_on_a_real_model(data, tmp_path, monkeypatch, caplog):
    specs = ["--reduction", "full", "--reduction", "fastv@2:64", "--reduction", "blind", "--reduction", "pool:64"]
    specs += ["--samples", "1"]
    results = tmp_path / "results"
    assert main(command(data, results, *specs)) == 0
    found = {name: lines(results / name) for name in ("full", "fastv@2-64", "blind", "pool-64")}
    assert {name: len(each) for name, each in found.items()} == dict.fromkeys(found, 8)
    assert found["fastv@2-64"][0]["kept"] == [576] * 2 + [64] * 6
    assert found["blind"][0]["kept"] == [0] * 8
    assert found["full"][0]["cost"]["llm_flops"] > found["fastv@2-64"][0]["cost"]["llm_flops"]
    assert (results / "report.md").is_file() and (results / "curve.png").is_file()
    assert {len(read_samples(results / name)) for name in found} == {2}
    assert "data:image/jpeg" in (results / "report.html").read_text()
    monkeypatch.setattr("llava.eval.ask.opening.load_model", lambda spec: pytest.fail("a finished run loads no model"))
    assert main(command(data, results, *specs)) == 0
    assert main(command(data, results, "--reduction", "full", "--batch-size", "4")) == 0
    assert main(command(data, results, "--reduction", "full", "--dtype", "float16")) == 2
    assert "model.dtype is 'float32' there and 'float16' now" in caplog.text


def test_batches_answer_as_single_questions_do(data, llava15):
    """Eight questions about four pictures at once, and one by one with the picture encoded anew: the same words."""
    subject = LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")
    examples = Mme(data, limit=8).examples
    for spec in ("", "fastv@2:64", "random@2:16", "pool:64"):
        plan = plan_from(spec)
        shared = [subject.encode([load_image(example.image)])[0] for example in examples]
        together = subject.answer([example.text for example in examples], shared, plan, Generation(6))
        for example, reply in zip(examples, together):
            (alone,) = subject.answer([example.text], subject.encode([load_image(example.image)]), plan, Generation(6))
            assert (alone.text, alone.kept, alone.cost) == (reply.text, reply.kept, reply.cost)


@pytest.mark.parametrize("spec", ["visionzip:64", "tome:288", "pyramiddrop"])
def test_methods_that_need_the_tower_answer_in_batches(data, llava15, spec):
    """Four questions about two pictures at once and one by one: the same words, tokens and cost."""
    subject = LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")
    examples, plan = Mme(data, limit=4).examples, plan_from(spec)
    encoded = subject.encode([load_image(example.image) for example in examples], plan)
    together = subject.answer([example.text for example in examples], encoded, plan, Generation(4))
    for example, picture, reply in zip(examples, encoded, together, strict=True):
        (alone,) = subject.answer([example.text], [picture], plan, Generation(4))
        assert (alone.text, alone.kept, alone.cost) == (reply.text, reply.kept, reply.cost)
        assert 0 < reply.kept[-1] < 576


def test_a_question_without_a_picture_stands_in_a_batch(data, llava15):
    subject = LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")
    features = subject.encode([load_image(Mme(data).examples[0].image)])
    replies = subject.answer(["Hello?", "What is this?"], [None, *features], plan_from("fastv@2:64"), Generation(4))
    assert [reply.kept[-1] for reply in replies] == [0, 64]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "mne"], "did you mean 'mme'"),
        (["--reduction", "fastw@2:64"], "did you mean 'fastv'"),
        (["--reduction", "fastv@8:64"], "out of range"),
        (["--reduction", "fastv@2:64", "--reduction", "fastv@2:64"], "given twice"),
        (["--reduction", "fastv@2:64", "--use-fast-v"], "use one of the two spellings"),
        (["--reduction", "fastv@2:900"], "exceeds the 576"),
        (["--conv-mode", "vicuna_v2"], "vicuna_v1"),
        (["--limit", "0"], "limit=0"),
        (["--samples", "-1"], "samples=-1"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--model-path", "no/such/model/there"], "not found"),
        (["--data", "no/such/data"], "llava_mme.jsonl does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(data, tmp_path, caplog, flags, message):
    assert main(command(data, tmp_path / "results", *flags)) == 2
    assert message in caplog.text


def test_folder_that_cannot_be_written_is_found_before_the_model_is_loaded(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("llava.eval.ask.opening.load_model", lambda spec: pytest.fail("loaded"))
    (tmp_path / "file").write_text("")
    assert main(command(data, tmp_path / "file" / "results")) == 2
    assert "give a folder that is writable" in caplog.text


def test_ctrl_c_says_how_to_go_on_and_the_documented_flags_spell_a_plan(data, tmp_path, monkeypatch, caplog):
    flags = ["--use-fast-v", "--fast-v-agg-layer", "2", "--fast-v-attention-rank", "64", "--batch-size", "2"]
    real, seen = LlavaSubject.answer, []

    def stopped(self, *rest):
        if len(seen) == 2:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(rest)
        return real(self, *rest)

    monkeypatch.setattr(LlavaSubject, "answer", stopped)
    assert main(command(data, tmp_path / "results", *flags)) == 130
    assert "the same command goes on from there" in caplog.text
    assert len(lines(tmp_path / "results/fastv@2-64")) == 4
    assert main(command(data, tmp_path / "results", *flags)) == 0
    assert len(lines(tmp_path / "results/fastv@2-64")) == 8
    assert len(seen) == 5


def test_retry_asks_failed_questions_again(data, tmp_path):
    picture = data / "MME_Benchmark_release_version/existence/0001.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    assert main(command(data, tmp_path / "results")) == 0
    assert json.loads((tmp_path / "results/full/metrics.json").read_text())["failed"] == 2
    picture.write_bytes(whole)
    assert main(command(data, tmp_path / "results", "--retry-failed")) == 0
    found = lines(tmp_path / "results/full")
    assert len(found) == 8 and not any("error" in line for line in found)
    assert json.loads((tmp_path / "results/full/metrics.json").read_text())["failed"] == 0

"""The inference loop by itself: batches of like length, whole pictures, shares of the work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from llava.eval.ask.loop import answers
from llava.eval.ask.subject import Generation, LlavaSubject
from llava.eval.results.folder import Run
from llava.eval.run import main as run_main
from llava.eval.tasks.base import Example
from llava.reduction import plan_from
from llava.shapes.export import export
from tests.conftest import PARITY15, in_processes
from tests.eval.stubs import StubSubject
from tests.sharding import make_shards

DENSE = [[]]
KEYS = ("key", "image", "prompt", "text", "kept", "correct", "cost")


def example(number: int, picture: str, image: Path | None = None, text: str = "?") -> Example:
    return Example(f"k{number}", f"q{number}", picture, image, text, "yes", "existence")


class ByLength(StubSubject):
    def length(self, text, image) -> int:
        return len(text)


def test_questions_of_like_length_share_a_batch_and_those_of_a_picture_stay_together():
    lengths = [9, 2, 7, 1, 8, 3]
    examples = [example(n, f"p{n // 2}", text="x" * length) for n, length in enumerate(lengths)]
    subject = ByLength()
    found = [answer.example.key for answer in answers(subject, DENSE, examples, batch_size=2)]
    assert found == ["k2", "k3", "k4", "k5", "k0", "k1"]
    assert subject.batches == [2, 2, 2]


def test_questions_about_one_file_stay_together_under_whatever_names_it_has(tmp_path):
    files = [tmp_path / f"{name}.png" for name in "ab"]
    for file in files:
        Image.new("RGB", (4, 4)).save(file)
    examples = [example(n, f"p{n}", files[n % 2], text="x" * (1 + n % 3)) for n in range(4)]
    found = [answer.example.key for answer in answers(ByLength(), DENSE, examples, batch_size=2)]
    assert found == ["k1", "k3", "k0", "k2"]


def test_shares_divide_the_batches_without_gap_or_overlap():
    examples = [example(n, f"p{n}") for n in range(11)]
    shares = [
        [one.example.key for one in answers(StubSubject(), DENSE, examples, batch_size=2, share=(n, 3))]
        for n in range(3)
    ]
    assert sorted(sum(shares, [])) == sorted(one.key for one in examples)
    assert max(map(len, shares)) - min(map(len, shares)) <= 2


def test_encoding_each_question_anew_is_what_sharing_saves(tmp_path):
    data = export("mme", tmp_path / "MME", images=1)
    file = next((data / "MME_Benchmark_release_version/existence").glob("*.png"))
    examples = [example(n, "p", file) for n in range(4)]
    plans = [plan_from(spec) for spec in ("", "fastv@2:64")]
    for shared, times in ((True, 1), (False, 8)):
        subject = StubSubject()
        assert len(list(answers(subject, plans, examples, batch_size=2, shared_features=shared))) == 8
        assert len(subject.encoded) == times


def test_a_smaller_picture_is_encoded_for_itself(tmp_path):
    data = export("mme", tmp_path / "MME", images=1)
    file = next((data / "MME_Benchmark_release_version/existence").glob("*.png"))
    subject = StubSubject()
    plans = [plan_from(spec) for spec in ("", "downsample:64", "fastv@2:64", "downsample:64+fastv@2:16")]
    assert len(list(answers(subject, plans, [example(0, "p", file)]))) == 4
    assert len(subject.encoded) == 2


@pytest.mark.parametrize(
    ("setting", "value"), [("max_new_tokens", 0), ("num_beams", 0), ("temperature", -1), ("top_p", 0), ("top_p", 1.5)]
)
def test_generation_refuses_what_no_decoder_can_do(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        Generation(**{setting: value})


def test_parts_of_several_processes_become_one_file_in_the_benchmarks_order(tmp_path):
    config, order = {"plan": "full"}, {f"k{n}": n for n in range(4)}
    with Run(tmp_path / "run", config) as first, Run(tmp_path / "run", config, part=1) as second:
        for run, keys in ((first, "20"), (second, "31")):
            for key in keys:
                run.append({"key": f"k{key}"})
    assert (tmp_path / "run/predictions.1.jsonl").is_file()
    with Run(tmp_path / "run", config) as again:  # a run that was stopped, gone on by one process
        assert again.done == set(order)
        assert [line["key"] for line in again.gather(order)] == list(order)
        with pytest.raises(OSError, match="another run is writing"):
            Run(tmp_path / "run", config)
    assert [file.name for file in (tmp_path / "run").glob("predictions*")] == ["predictions.jsonl"]
    written = (tmp_path / "run/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in written] == list(order)


def test_two_machines_give_what_one_gives(tmp_path):
    data = export("mme", tmp_path / "MME", images=1)
    flags = [
        "llava.eval.run", "--model-path", str(PARITY15 / "checkpoint"), "--conv-mode", "vicuna_v1", "--device", "cpu",
        "--data", str(data), "--batch-size", "2", "--no-controls", "--reduction", "fastv@2:16", "--results",
    ]  # fmt: skip
    assert run_main([*flags[1:], str(tmp_path / "one")]) == 0
    in_processes(2, *flags, str(tmp_path / "two"), machines=2)
    texts = {}
    for name in ("one", "two"):
        lines = (tmp_path / name / "fastv@2-16/predictions.jsonl").read_text().splitlines()
        texts[name] = [(line["key"], line["text"], line["kept"]) for line in map(json.loads, lines)]
        assert not list((tmp_path / name).rglob("predictions.1.jsonl"))
    assert texts["one"] == texts["two"] and len(texts["one"]) == 16


def test_shards_give_what_the_folder_gives_to_whatever_number_of_processes(tmp_path):
    """Of the folder; of shards and two machines; of a run that the folder began and shards finish."""
    data = export("mme", tmp_path / "MME", images=1)
    shards = make_shards(data, sorted(data.rglob("*.png")), tmp_path / "MME/mme-{}.tar")
    flags = [
        "llava.eval.run", "--model-path", str(PARITY15 / "checkpoint"), "--conv-mode", "vicuna_v1", "--device", "cpu",
        "--batch-size", "2", "--no-controls", "--reduction", "fastv@2:16",
    ]  # fmt: skip
    folder, sharded = ["--data", str(data), "--results"], ["--data", shards, "--results"]
    assert run_main([*flags[1:], *folder, str(tmp_path / "one")]) == 0
    shutil.copytree(tmp_path / "one", tmp_path / "resumed")
    predictions = tmp_path / "resumed/fastv@2-16/predictions.jsonl"
    predictions.write_text("".join(predictions.read_text().splitlines(keepends=True)[:5]))
    for file in data.rglob("*.png"):
        file.unlink()
    assert run_main([*flags[1:], *sharded, str(tmp_path / "resumed")]) == 0
    in_processes(2, *flags, *sharded, str(tmp_path / "two"), machines=2)
    results = {}
    for name in ("one", "resumed", "two"):
        run = tmp_path / name / "fastv@2-16"
        lines = map(json.loads, (run / "predictions.jsonl").read_text().splitlines())
        metrics = json.loads((run / "metrics.json").read_text())
        results[name] = ([[line[key] for key in KEYS] for line in lines], metrics)
    assert results["one"] == results["resumed"] == results["two"]
    assert len(results["one"][0]) == 16 and not results["one"][1]["failed"]


VSCANS = ["vscan:64,shallow=0", "vscan:64,shallow=1"]  # reads the layers that it writes out for


def test_a_picture_passes_the_tower_once_for_all_plans_that_ask_it_alike(llava15, monkeypatch):
    """However many questions: the time of an answer holds no tower, which is timed by itself."""
    subject = LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor)
    tower, passed = llava15.model.get_vision_tower(), []
    encode = tower.encode
    monkeypatch.setattr(
        tower, "encode", lambda images, *rest, **named: passed.append(len(images)) or encode(images, *rest, **named)
    )
    plans = [
        plan_from(plan)
        for plan in (
            "",
            "divprune:64",
            "fastervlm:64",
            "visionzip:32",
            "hired:64",
            "tome:300",
            "fastv@1:9",
            "fitprune",
            *VSCANS,
        )
    ]
    file = PARITY15 / "image0.png"
    examples = [example(number, "p", file, f"Is it {number}?") for number in range(6)]
    found = list(answers(subject, plans, examples, batch_size=3, generation=Generation(1)))
    assert len(found) == 6 * len(plans) and not any(answer.error for answer in found)
    assert passed == [1] * 6  # features alone, the last layer but one, hired's two layers, merged, each of vscan's
    assert all(answer.tower_seconds > 0 and answer.seconds > 0 for answer in found)

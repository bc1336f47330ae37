"""A published row run again from the command line: what applies is compared, what does not is said, and nothing is asked twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.eval.ask.opening import Checkpoint
from llava.eval.reproduce.command import main
from llava.eval.reproduce.measuring import PORTS
from llava.eval.run import main as evaluate
from llava.shapes.export import export
from tests.conftest import PARITY15
from tests.eval.stubs import StubSubject

PAPER = """
source: A paper
model: someone/checkpoint
metrics: {gqa: accuracy, mme: perception}
base: {scores: {gqa: 60, mme: 1500}}
rows:
  - {method: fastv, label: 128, accounting: mean, mean_tokens: 200, plan: "fastv@2:64", scores: {gqa: 45, mme: 1300}}
  - {method: fastv, label: 64, accounting: entering, scores: {gqa: 30}}
"""
OTHER = """
source: Another paper
model: someone/llava
metrics: {gqa: accuracy}
rows:
  - {method: fastv, label: 128, accounting: unknown, scores: {gqa: 40}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    export("gqa", root / "gqa", images=3)
    export("mme", root / "mme", images=2)
    return root


@pytest.fixture
def published(tmp_path) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "paper.yaml").write_text(PAPER)
    (folder / "other.yaml").write_text(OTHER)
    return folder


@pytest.fixture
def stub(monkeypatch) -> StubSubject:
    """Answers yes in the model's place."""
    subject = StubSubject()
    monkeypatch.setattr(Checkpoint, "subject", lambda self, device=None: subject)
    return subject


def command(data: Path, published: Path, task: str, *more: str) -> list[str]:
    return [
        "--model-path", str(PARITY15 / "checkpoint"), "--conv-mode", "vicuna_v1", "--device", "cpu", "--task", task,
        "--data", str(data / task), "--results", str(published.parent / task), "--published", str(published),
        "--method", "fastv", *more,
    ]  # fmt: skip


def result(published: Path, task: str, name: str = "reproduced_paper_fastv_128.json") -> dict:
    return json.loads((published.parent / task / name).read_text())


def test_published_measured_and_difference(data, published, stub, capsys):
    """GQA drawn: 12 questions of 3 pictures, of which yes is right for some share; both runs say yes, so the ratio is 1."""
    assert main(command(data, published, "gqa", "--tokens", "128")) == 0
    held = result(published, "gqa")
    full, reduced, ratio = held["figures"]
    assert (
        held["obstacles"] == []
        and held["questions"] == 12
        and (held["model"], held["metric"]) == ("checkpoint", "accuracy")
    )
    assert (full["name"], full["published"], reduced["name"], reduced["published"]) == ("full", 60, "fastv@2-64", 45)
    assert full["measured"] == reduced["measured"] > 0
    assert reduced["difference"] == pytest.approx(reduced["measured"] - 45)
    low, high = reduced["difference_interval"]
    assert low < reduced["difference"] < high and high - low == pytest.approx(
        reduced["interval"][1] - reduced["interval"][0]
    )
    assert (ratio["published"], ratio["measured"]) == (75, 100) and ratio["difference"] == pytest.approx(25)
    assert reduced["visual_tokens"] == 320 and full["visual_tokens"] == 576
    printed = capsys.readouterr().out
    assert "does not apply" not in printed and "published" in printed and "+25.0" in printed
    said = " ".join(printed.split())
    assert "other also prints this label, with 40.0 (accuracy); what it counts there: the source does not say." in said
    assert "The source's plan has 200 visual tokens on average over the layers, this run 320.0" in said


def test_answers_are_shared_with_an_evaluation_and_asked_once(data, published, stub):
    shared = command(data, published, "gqa")[: 4 * 2 + 2 + 2]
    assert evaluate([*shared, "--reduction", "full", "--no-controls", "--samples", "0"]) == 0
    asked = len(stub.asked)
    assert main(command(data, published, "gqa", "--tokens", "128")) == 0
    assert len(stub.asked) == 2 * asked == 24
    assert main(command(data, published, "gqa", "--tokens", "128")) == 0
    assert len(stub.asked) == 24


def test_another_model_and_missing_subtasks_do_not_apply(data, published, stub, capsys):
    (published / "paper.yaml").write_text(PAPER.replace("someone/checkpoint", "someone/llava"))
    assert main(command(data, published, "mme", "--tokens", "128")) == 0
    held = result(published, "mme")
    assert held["questions"] == 24  # of the six subtasks of perception that are drawn
    assert held["obstacles"] == [
        "they are for someone/llava, this is checkpoint",
        "perception also counts posters, celebrity, landmark, artwork, of which there is no question here",
    ]
    assert all(figure["difference"] is None for figure in held["figures"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("does not apply") == 3 and "do not apply (full 1500.0, fastv@2-64 1300.0, ratio % 86.7)" in said


def test_the_same_weights_under_another_name_apply(data, published, stub, monkeypatch):
    monkeypatch.setitem(PORTS, "checkpoint", "llava")
    (published / "paper.yaml").write_text(PAPER.replace("someone/checkpoint", "someone/llava"))
    assert main(command(data, published, "gqa", "--tokens", "128")) == 0
    assert result(published, "gqa")["obstacles"] == []


def test_a_sample_and_a_source_without_its_unreduced_row(data, published, stub, capsys):
    (published / "paper.yaml").write_text(PAPER.replace("base: {scores: {gqa: 60, mme: 1500}}\n", ""))
    assert main(command(data, published, "gqa", "--tokens", "128", "--limit", "4")) == 0
    held = result(published, "gqa")
    assert held["sampled"] and held["figures"][0]["published"] is held["figures"][2]["published"] is None
    printed = capsys.readouterr().out
    assert printed.count("not printed") == 2 and "not this sample" in " ".join(printed.split())


def test_a_model_that_scores_nothing_has_no_ratio(data, published, stub):
    stub.reply = lambda text: "?"
    assert main(command(data, published, "gqa", "--tokens", "64")) == 0
    held = result(published, "gqa", "reproduced_paper_fastv_64.json")
    assert [figure["name"] for figure in held["figures"]] == ["full", "fastv@2-64"] and held["figures"][1][
        "measured"
    ] == 0


def test_it_runs_on_a_real_model(data, published):
    assert main(command(data, published, "mme", "--tokens", "128", "--limit", "8")) == 0
    held = result(published, "mme")
    assert held["questions"] == 6 and held["figures"][1]["visual_tokens"] == (2 * 576 + 6 * 64) / 8


def test_the_list(published, capsys):
    assert main(["--list", "--published", str(published), "--method", "fastv", "--tokens", "128"]) == 0
    printed = capsys.readouterr().out
    assert "2 published rows" in printed and "gqa 45, mme 1300" in " ".join(printed.split())
    assert main(["--list", "--published", str(published), "--method", "cdpruner"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", ""], "--method is needed"),
        ([], "--tokens is needed"),
        (["--tokens", "128", "--task", "mne"], "did you mean 'mme'"),
        (["--tokens", "128", "--published", "no/such/folder"], "holds no published rows"),
        (["--tokens", "128", "--source", "other"], "the source does not say"),
        (["--tokens", "128", "--data", "no/such/data"], "does not exist"),
        (["--tokens", "128", "--reduction", "fastw:3"], "did you mean 'fastv'"),
    ],
)
def test_bad_input_is_one_clear_line(data, published, stub, caplog, flags, message):
    assert main(command(data, published, "gqa", *flags)) == 2
    assert message in caplog.text
    assert stub.asked == []

"""Plans and their controls through the harness: an adaptive plan is measured before its controls are chosen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from llava.cli.settings import EvalSettings, ModelSpec, PlanSpec
from llava.eval.ask.measure import measure_with_controls
from llava.eval.ask.opening import Checkpoint, open_evaluation
from llava.shapes.export import export
from tests.conftest import PARITY15
from tests.eval.stubs import StubSubject


class Adaptive(StubSubject):
    """Keeps 40 tokens for one half of the questions and 60 for the other, from layer 2 of 8 on."""

    def answer(self, texts, features, plan, generation):
        replies = super().answer(texts, features, plan, generation)
        return [replace(reply, kept=[576] * 2 + [40 + 20 * (number % 2)] * 6) for number, reply in enumerate(replies)]


@pytest.fixture
def evaluation(tmp_path):
    data = export("mme", tmp_path / "MME", images=1)
    model = ModelSpec(PARITY15 / "checkpoint", conv_mode="vicuna_v1", device="cpu")
    return open_evaluation(EvalSettings(model, "mme", data, results=tmp_path / "results"))


def test_an_adaptive_plan_is_priced_by_what_it_really_kept(evaluation, monkeypatch):
    """Up to 100 tokens are allowed and 50 were kept on average: (2 * 576 + 6 * 50) / 8 = 181.5 tokens a layer."""
    subject = Adaptive()
    monkeypatch.setattr(Checkpoint, "subject", lambda checkpoint, device=None: subject)
    measured = measure_with_controls(evaluation, PlanSpec(("condensation@2:100,cover=0.9",)))
    names = [run.folder.name for run, _ in measured]
    assert names[0] == "condensation@2-100_cover=0.9"
    assert names[3:6] == ["random@2-50", "random@2-50_seed=1", "random@2-50_seed=2"]
    assert names[6:] == ["grid-182", "pool-182", "downsample-169"]
    assert len(subject.asked) == len(names) * len(evaluation.task.examples)  # nothing was asked twice


def test_without_controls_there_are_none(evaluation, monkeypatch):
    monkeypatch.setattr(Checkpoint, "subject", lambda checkpoint, device=None: Adaptive())
    (measured,) = measure_with_controls(evaluation, PlanSpec(("condensation@2:100,cover=0.9",), controls=False))
    assert measured[0].folder.name == "condensation@2-100_cover=0.9"


def test_time_is_matched_with_the_model_that_answers(evaluation, monkeypatch):
    """A clock on which a pass takes as long as its first stage keeps tokens; the model is loaded once."""
    subject = Adaptive()
    loaded: list[Adaptive] = []
    monkeypatch.setattr(Checkpoint, "subject", lambda checkpoint, device=None: loaded.append(subject) or subject)
    clock = "llava.eval.ask.plans.first_token_seconds"
    monkeypatch.setattr(clock, lambda subject, text: lambda plan: plan[0].keep if plan else 576)
    (measured,) = measure_with_controls(evaluation, PlanSpec(("pool",), match="latency=0.25", controls=False))
    assert measured[0].folder.name in ("pool-143", "pool-144", "pool-145") and len(loaded) == 1


def test_time_is_not_measured_by_several_processes(evaluation, monkeypatch):
    several = SimpleNamespace(num_processes=2)
    monkeypatch.setattr("llava.eval.ask.measure.PartialState", lambda **options: several)
    with pytest.raises(ValueError, match="--match latency=0.5: time is measured by one process"):
        measure_with_controls(evaluation, PlanSpec(("pool",), match="latency=0.5"))

"""How long cells will take: the clock finds again what timings were made of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llava.eval.leaderboard.cells import Cell, Job
from llava.eval.leaderboard.clock import Clock, Timing, finished_timings, trial_timings, words
from llava.eval.tasks.base import Example
from llava.files import write_json
from tests.eval.stubs import StubSubject

EXAMPLES = [
    Example(f"{picture}#{number}", "", str(picture), None, "Is it?", "Yes", "existence")
    for picture in range(10)
    for number in (1, 2)
]
TASK = SimpleNamespace(examples=EXAMPLES, prompt=lambda example: example.text, max_new_tokens=4)


def test_a_clock_finds_its_two_rates_and_who_is_slower():
    timings = [Timing("a", share, 0.02 + 0.3 * share, 0.05) for share in (0.1, 0.2, 0.5, 1.0)]
    clock = Clock.from_timings(timings)
    assert (clock.fixed, clock.dense, clock.tower) == (pytest.approx(0.02), pytest.approx(0.3), 0.05)
    slow = Clock.from_timings([*timings, *timings, *timings, Timing("slow", 0.1, 0.5, 0.05)])
    assert slow.question(0.1, "slow") == pytest.approx(0.5)
    assert slow.question(0.1, "unheard of") < 0.2


def test_one_plan_tells_nothing():
    with pytest.raises(ValueError, match="two of different cost"):
        Clock.from_timings([Timing("full", 1.0, 0.3, 0.05)])


def test_a_cell_takes_what_its_questions_and_its_share_of_the_tower_take():
    """20 questions and 4 for the samples of 2 pictures at 0.12 s; 12 pictures at 0.5 s, shared by 4 plans."""
    clock, job = Clock(0.02, 1.0, 0.5), Job(Cell("a", "before", 64, "a-64"), [], 0.1)
    assert clock.cell(job, TASK, 0, 2, 4) == pytest.approx(24 * 0.12 + 12 * 0.5 / 4)
    assert clock.cell(job, TASK, 10, 2, 4) == pytest.approx(14 * 0.12 + 7 * 0.5 / 4)
    assert clock.cell(job, TASK, 20, 2, 4) == 0


def test_finished_runs_are_timings(tmp_path):
    made = [Job(Cell(name, "before", 64, f"{name}-64"), [], 0.2) for name in ("a", "b")]
    (tmp_path / "a-64").mkdir()
    write_json(tmp_path / "a-64/cost.json", {"ms_per_question": 40.0, "tower_ms_per_picture": 9.0})
    assert finished_timings(tmp_path, made) == [Timing("a", 0.2, 0.04, 0.009)]


def test_a_trial_asks_a_few_questions_of_two_plans():
    subject = StubSubject()
    full, cheap = trial_timings(subject, TASK, 0.05)
    assert (full.name, full.share, cheap.name, cheap.share) == ("full", 1.0, "random", 0.05)
    assert full.seconds > 0 and len(subject.asked) == 2 * 16


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (89, "89 s"), (600, "10 min"), (5370, "90 min"), (12000, "3 h 20 min")]
)
def test_time_in_words(seconds, said):
    assert words(seconds).replace("1 h 30 min", "90 min") == said

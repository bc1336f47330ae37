"""ScienceQA's answers: the prompts recorded, HiMAP's samples, and the answer that follows from reasoning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.constants import LETTER_ANSWER
from llava.eval import eval_science_qa, model_vqa_science
from llava.eval.ask.opening import Checkpoint
from llava.eval.ask.subject import Generation
from llava.eval.scoring.ask_scienceqa import CONTINUED, LEAD_IN, Continued, Reasoning
from llava.eval.scoring.eval_answers import lines_of
from llava.eval.tasks.scienceqa import ScienceQA
from llava.shapes.export import export
from tests.conftest import PARITY15
from tests.eval.stubs import StubSubject


@pytest.fixture
def data(tmp_path) -> Path:
    """Three questions about pictures and one about none."""
    folder = export("scienceqa", tmp_path / "sqa", images=3)
    for name, extra in (("problems.json", {"4": {"choices": ["a", "b"], "answer": 0}}), ("pid_splits.json", None)):
        known = json.loads((folder / name).read_text())
        known = {**known, **extra} if extra else {**known, "test": [*known["test"], "4"]}
        (folder / name).write_text(json.dumps(known))
    file = folder / "llava_test_CQM-A.json"
    turns = [{"from": "human", "value": "Which?\nA. a\nB. b"}, {"from": "gpt", "value": "A"}]
    file.write_text(json.dumps([*json.loads(file.read_text()), {"id": "4", "conversations": turns}]))
    return folder


@pytest.fixture
def stub(monkeypatch) -> StubSubject:
    subject = StubSubject(lambda text: "A")
    monkeypatch.setattr(Checkpoint, "subject", lambda checkpoint: subject)
    return subject


def command(data: Path, *more: str) -> list[str]:
    given = ["--model-path", PARITY15 / "checkpoint", "--question-file", data / "llava_test_CQM-A.json"]
    places = ["--image-folder", data / "images/test", "--answers-file", data / "answers/mine.jsonl"]
    return [*map(str, [*given, *places]), "--conv-mode", "vicuna_v1", "--temperature", "0", *more]


def read(data: Path) -> list[dict]:
    return [json.loads(line) for line in (data / "answers/mine.jsonl").read_text().splitlines()]


def test_prompts_have_placeholder_and_suffix_as_llava_records_them(data, stub):
    assert model_vqa_science.main(command(data, "--single-pred-prompt")) == 0
    found = read(data)
    assert [line["question_id"] for line in found] == ["1", "2", "3", "4"]
    assert all(line["prompt"].startswith("<image>\nContext: N/A\n") for line in found[:3])
    assert found[3]["prompt"] == f"Which?\nA. a\nB. b\n{LETTER_ANSWER}"
    assert all("<image>" not in text and text.endswith(LETTER_ANSWER) for text in stub.asked)


def test_what_is_written_is_what_the_evaluations_read(data, stub, capsys):
    model_vqa_science.main(command(data, "--single_pred_prompt"))
    answers = data / "answers/mine.jsonl"
    assert eval_science_qa.main(["--base-dir", str(data), "--result-file", str(answers)]) == 0
    task = ScienceQA(data)
    right = sum(line["correct"] for line in lines_of(task, answers))
    assert f"\nTotal: 4, Correct: {right}, " in capsys.readouterr().out
    assert right == sum(example.label == "A" for example in task.examples)


def test_without_the_suffix_the_question_is_bare(data, stub):
    model_vqa_science.main(command(data))
    assert read(data)[3]["prompt"] == "Which?\nA. a\nB. b" and "Which?\nA. a\nB. b" in stub.asked
    assert all(LETTER_ANSWER not in line["prompt"] for line in read(data))


@pytest.mark.parametrize(("count", "asked"), [("2", 2), ("9", 4), ("-1", 4)])
def test_the_first_samples(data, stub, count, asked):
    assert model_vqa_science.main(command(data, "--num-samples", count)) == 0
    assert [line["question_id"] for line in read(data)] == ["1", "2", "3", "4"][:asked]


@pytest.mark.parametrize(
    ("more", "record", "message"),
    [
        (["--num-samples", "0"], None, "--num-samples 0"),
        ([], {"id": "5"}, "record 5 lacks conversations"),
        ([], {"id": "5", "conversations": []}, "record 5: conversations must be a list"),
    ],
)
def test_bad_input_is_named(data, stub, caplog, more, record, message):
    file = data / "llava_test_CQM-A.json"
    if record:
        file.write_text(json.dumps([*json.loads(file.read_text()), record]))
    assert model_vqa_science.main(command(data, *more)) == 2
    assert message in caplog.text


def test_reasoning_is_asked_about_and_kept():
    """The second question holds the first and what was said to it."""
    stub = StubSubject(lambda text: "B" if text.endswith(LEAD_IN) else f"because of {text}")
    (reply,) = Reasoning(stub).answer(["x"], [None], [], Generation(max_new_tokens=8))
    assert reply.text == "because of x\n The answer is B"
    assert stub.asked == ["x", f"x{CONTINUED}because of x{LEAD_IN}"]


def test_what_was_said_follows_the_prompt(llava15):
    subject = Continued(llava15.tokenizer, llava15.model, llava15.image_processor)
    asked = subject.prompt_ids("Why?", True)
    said = subject.prompt_ids(f"Why?{CONTINUED}So.", True)
    assert said[: len(asked)] == asked and len(said) > len(asked)
    assert said.count(llava15.tokenizer.bos_token_id) == 1
    assert llava15.tokenizer.decode(said[len(asked) :]).strip() == "So."


def test_the_answer_prompter_asks_the_model_twice(data):
    few = ["--answer-prompter", "--max-new-tokens", "3", "--num-samples", "1", "--device", "cpu"]
    assert model_vqa_science.main(command(data, *few)) == 0
    assert "\n The answer is " in read(data)[0]["text"]

"""POPE's command line prints what LLaVA's does, of answers in any order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.eval import eval_pope


@pytest.fixture
def command(tmp_path) -> list[str]:
    """Two categories of one picture; said are yes, no (right, right) and yes, yes (right, wrong)."""
    asked, answers = [], []
    (tmp_path / "coco").mkdir()
    for category, said in (("random", ("Yes", "No")), ("popular", ("Yes, it is.", "Yes"))):
        truth = []
        for thing, label, text in zip(("cat", "dog"), ("yes", "no"), said):
            number, question = len(asked), f"Is there a {thing} in the image?"
            line = {"question_id": number, "image": "1.jpg", "text": question, "category": category}
            asked.append({**line, "text": f"{question}\nAnswer the question using a single word or phrase."})
            truth.append({"question_id": number, "image": "1.jpg", "text": question, "label": label})
            answers.insert(0, {"question_id": number, "prompt": asked[-1]["text"], "text": text})
        lay(tmp_path / f"coco/coco_pope_{category}.json", truth)
    lay(tmp_path / "asked.jsonl", asked)
    lay(tmp_path / "answers.jsonl", answers)
    files = {"annotation-dir": "coco", "question-file": "asked.jsonl", "result-file": "answers.jsonl"}
    return [word for flag, name in files.items() for word in (f"--{flag}", str(tmp_path / name))]


def lay(file: Path, lines: list[dict]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_prints_the_figures_of_every_category(command, capsys):
    assert eval_pope.main(command) == 0
    random, popular, last = capsys.readouterr().out.split("====================================\n")
    assert random.splitlines() == [
        "Category: random, # samples: 2",
        "TP\tFP\tTN\tFN\t",
        "1\t0\t1\t0",
        "Accuracy: 1.0",
        "Precision: 1.0",
        "Recall: 1.0",
        "F1 score: 1.0",
        "Yes ratio: 0.5",
        "1.000, 1.000, 1.000, 1.000, 0.500",
    ]
    assert popular.splitlines()[2] == "1\t1\t0\t0"
    assert popular.splitlines()[-1] == "0.667, 0.500, 0.500, 1.000, 1.000"
    assert last.startswith("Mean F1: 83.33 [") and "scored without adversarial" in last


def test_says_what_is_wrong(command, caplog):
    answers = Path(command[-1])
    answers.write_text(answers.read_text().splitlines()[0])
    assert eval_pope.main(command) == 2
    assert "lacks 3 of the 4 answers" in caplog.text

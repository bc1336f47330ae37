"""What the tests of the analyses share: a layer made by hand, a picture benchmark of eight questions, and a way to run command lines."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from llava.eval.ask.subject import LlavaSubject
from llava.shapes.export import export
from tests.conftest import PARITY15


class HandMadeAttention:
    """One prompt in one layer with attention (H, S, S) and groups typed in; stands for ``observe.LayerAttention``."""

    def __init__(self, attention, layer: int = 0, **columns):
        self.attention, self.layer = torch.as_tensor(attention, dtype=torch.float32), layer
        names = ("bos", "system", "visual", "text")
        self.columns = {name: torch.tensor(columns.get(name, []), dtype=torch.long) for name in names}
        self.origin = torch.arange(len(self.columns["visual"]))

    def chunks(self, group: str):
        for column in self.columns[group]:  # a row at a time, the smallest chunk there is
            yield self.attention[:, column[None]]

    def block(self, queries: str, keys: str):
        return self.attention[:, self.columns[queries]][..., self.columns[keys]]


@pytest.fixture
def made_attention():
    return HandMadeAttention


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("analysis")
    export("mme", folder / "mme", images=1)
    export("scienceqa", folder / "scienceqa", images=2)
    return {"mme": folder / "mme", "scienceqa": folder / "scienceqa" / "himap-inference-MCQ.json"}


@pytest.fixture
def subject(llava15) -> LlavaSubject:
    return LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")


@pytest.fixture
def analyse(questions, tmp_path, monkeypatch, llava15):
    """Runs ``llava.analysis.<name>``, or ``llava.<package>.<name>``, on two questions of the drawn MME, files in ``tmp_path``; returns its exit status."""

    def load(spec):
        return llava15.tokenizer, llava15.model, llava15.image_processor, None

    monkeypatch.setattr("llava.eval.ask.opening.load_model", load)
    monkeypatch.chdir(tmp_path)

    def run(name: str, *flags: str, task: str = "mme") -> int:
        module = importlib.import_module(f"llava.{name}" if "." in name else f"llava.analysis.{name}")
        asked = ["--task", task, "--question-file", str(questions[task]), "--num-samples", "2"]
        return module.main(["--model-path", str(PARITY15 / "checkpoint"), "--device", "cpu", *asked, *flags])

    return run

"""The drawn world as MME and ScienceQA, a model in both layouts, and lmms-eval, or what stands in for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llava.model import convert
from llava.shapes.export import export
from tests.harness import lmms_stand_in
from tests.shapes.test_embedded_model import CHECKPOINT

HOME = "llava.harness.models.llava_condense"


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The embedded model."""
    return CHECKPOINT


@pytest.fixture(scope="session")
def stock_checkpoint(tmp_path_factory) -> Path:
    """The embedded model for transformers' own class."""
    folder = tmp_path_factory.mktemp("harness") / "llava-hf"
    convert.to_llava_hf(CHECKPOINT, folder)
    return folder


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory) -> Path:
    """``mme`` and ``scienceqa`` in LLaVA's layout."""
    folder = tmp_path_factory.mktemp("benchmarks")
    export("mme", folder / "mme", images=1)
    export("scienceqa", folder / "scienceqa", images=4)
    return folder


@pytest.fixture
def logged(monkeypatch) -> list[tuple]:
    """What was given to ``log_metrics`` of the lmms-eval that stands in."""
    seen: list[tuple] = []
    for name, module in lmms_stand_in.modules(seen).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, HOME, raising=False)
    yield seen
    sys.modules.pop(HOME, None)

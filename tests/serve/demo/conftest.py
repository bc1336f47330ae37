"""A browser, and the embedded model as the demo asks it."""

from __future__ import annotations

import pytest

from llava.cli.settings import ModelSpec
from tests.eval.conftest import browser  # noqa: F401  a fixture
from tests.shapes.test_embedded_model import CHECKPOINT


@pytest.fixture(scope="session")
def asker():
    pytest.importorskip("pydantic", reason="pip install 'llava-condense[demo]'")
    from llava.serve.demo.asking import Asker
    from llava.serve.openai.limits import Limits
    from llava.serve.openai.opening import own_chat

    limits = Limits(image_bytes=300_000, image_pixels=1_000_000, max_tokens=16)
    with Asker(own_chat(ModelSpec(CHECKPOINT, device="cpu")), limits, seconds=60) as asker:
        yield asker

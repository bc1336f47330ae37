"""Kept patches: led back through the stages, and drawn where they are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from llava.eval.ask.subject import LlavaSubject
from llava.eval.report.visualize import Panel, draw, main, panels
from llava.reduction import plan_from
from llava.shapes.export import export
from tests.conftest import PARITY15


@pytest.fixture(scope="module")
def subject(llava15) -> LlavaSubject:
    return LlavaSubject(llava15.tokenizer, llava15.model, llava15.image_processor, "vicuna_v1")


def test_panels_of_single_and_several_stages(subject):
    image = Image.open(PARITY15 / "image0.png").convert("RGB")
    plans = [
        plan_from(spec) for spec in ("fastv@2:64", "pool:16", "random@prompt:0.5+fastv@2:32", "blind", "downsample:64")
    ]
    found = panels(subject, image, "What is this?", plans)
    assert [None if panel.kept is None else len(panel.kept) for panel in found] == [None, 64, 16, 288, 32, 0, 64]
    assert [panel.merged for panel in found] == [False, False, True, False, False, False, True]
    assert set(found[4].kept) <= set(found[3].kept)
    assert found[1].title.startswith("fastv@2:64\n64 of 576")
    assert [panel.side for panel in found] == [24] * 6 + [8]


def test_dropped_patches_fade_and_kept_ones_do_not():
    white = np.ones((4, 4, 3))
    one, cells = Panel("one", np.array([3]), side=2), Panel("cells", np.array([0]), merged=True, side=2)
    figure = draw(white, [Panel("all"), one, cells])
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    assert (drawn[0] == 1).all() and (drawn[2] == 1).all()
    assert (drawn[1][2:, 2:] == 1).all() and drawn[1][:2].max() < 0.5
    assert len(figure.axes[2].collections) == 1


def test_command_line(tmp_path, caplog):
    model = ["--model-path", str(PARITY15 / "checkpoint"), "--conv-mode", "vicuna_v1", "--device", "cpu"]
    output = tmp_path / "deep" / "kept.png"
    data = export("mme", tmp_path / "data", images=1)
    asked = ["--task", "mme", "--data", str(data), "--example", "count/0001.png#2", "--output", str(output)]
    assert main([*model, *asked, "--reduction", "fastv@2:64"]) == 0
    assert Image.open(output).width > 500
    for wrong, message in (
        (["--reduction", "fastv@2:64"], "give --image and --question"),
        (["--reduction", "fastv@2:64", "--task", "mme"], "needs --data"),
        (
            ["--reduction", "fastv@2:64", "--task", "mme", "--data", str(data), "--example", "x"],
            "example='x' is not in",
        ),
        (["--reduction", "fastv@9:64", "--image", str(PARITY15 / "image0.png"), "--question", "?"], "out of range"),
        (["--reduction", "fastv@2:64", "--image", "nowhere.png", "--question", "?"], "does not exist"),
    ):
        assert main([*model, *wrong]) == 2
        assert message in caplog.text

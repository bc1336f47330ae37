"""Readings by hand, patches in their places, and the pictures that come out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from llava.analysis.heatmap import READINGS, concentration, measure, readings, show_heat, top_patches


@pytest.fixture
def attention(made_attention):
    """Two heads, BOS, two picture tokens, two words; only the words' rows matter."""
    heads = torch.zeros(2, 5, 5)
    heads[0, 3] = torch.tensor([0.5, 0.1, 0.1, 0.3, 0])
    heads[0, 4] = torch.tensor([0.2, 0.1, 0.3, 0.2, 0.2])
    heads[1, 3] = torch.tensor([0.1, 0.5, 0.1, 0.3, 0])
    heads[1, 4] = torch.tensor([0.2, 0.3, 0.1, 0.2, 0.2])
    return made_attention(heads, bos=[0], visual=[1, 2], text=[3, 4])


def test_four_readings_by_hand(attention):
    """Heads' mean: word 0 (0.3, 0.1), word 1 (0.2, 0.2). Head 1 looks at the picture most: mean (0.4, 0.1).
    Words get 0.3 + 0.2 and 0.2 of the words' attention: weights 5/7 and 2/7."""
    expected = [[0.25, 0.15], [0.4, 0.1], [0.2, 0.2], [(5 * 0.3 + 2 * 0.2) / 7, (5 * 0.1 + 2 * 0.2) / 7]]
    assert readings(attention) == pytest.approx(np.array(expected), abs=1e-6)


def test_what_is_left_goes_back_to_its_patches(attention):
    attention.origin = torch.tensor([6, 1])
    found = measure(9)(attention)
    assert found.shape == (4, 9) and np.isnan(found[0]).sum() == 7
    assert found[0, [6, 1]] == pytest.approx([0.25, 0.15])
    with pytest.raises(ValueError, match="the picture is 7 or more tokens, not one view of 4 patches"):
        measure(4)(attention)


def test_top_patches_and_what_they_hold():
    """Of 1..10, sum 55: the top 1 % is one patch of 10, the top 20 % are two, 19, the top half 40."""
    values = np.arange(1.0, 11)
    assert np.flatnonzero(top_patches(values, 0.2)).tolist() == [8, 9]
    assert concentration(values) == pytest.approx(np.array([10, 10, 19, 40]) / 55)
    gone = np.array([np.nan, 0.2, 0.2, 0.1])
    assert np.flatnonzero(top_patches(gone, 0.25)).tolist() == [1]
    assert concentration(gone)[0] == pytest.approx(0.4)
    assert np.isnan(concentration(np.full(4, np.nan))).all()


def test_a_map_lies_on_the_picture_as_seen():
    """Patches go row by row over the square; one that is gone is dark."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    show_heat(axes, np.ones((4, 4, 3)), np.array([0.0, 1.0, np.nan, 0.5]))
    picture, heat, shade = axes.images
    assert picture.get_extent() == heat.get_extent() == shade.get_extent() == [0, 4, 4, 0]
    assert heat.get_array().filled(-1).tolist() == [[0, 1], [-1, 0.5]]
    assert (shade.get_alpha() > 0).tolist() == [[False, False], [True, False]]


def test_command_line(analyse, tmp_path):
    flags = ["--output-dir", "out", "--reduction", "fastv@3:20", "--layer", "1", "--readings", READINGS[0]]
    assert analyse("heatmap", *flags) == 0
    held = json.loads((tmp_path / "out" / "results.json").read_text())
    (sample,) = held["samples"]
    assert set(sample) == {
        "category",
        "question_id",
        "image_file",
        "question",
        "gt_answer",
        "pred_answer",
        "num_layers",
        "output_dir",
    }
    assert held["shown_layer"] == 1
    assert held["concentration"]["0.01"][3] <= held["concentration"]["0.5"][3] == pytest.approx(1)
    folder = tmp_path / "out" / sample["output_dir"]
    assert {file.name for file in folder.iterdir()} == {"original.png", f"{READINGS[0]}.png"}
    with Image.open(folder / "original.png") as original:
        assert original.size == (336, 336)
    for name in ("subtasks", "concentration"):
        assert np.asarray(Image.open(tmp_path / "out" / f"{name}.png").convert("L")).std() > 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--reduction", "pool:64"], "--reduction pool:64 acts before the decoder"),
        (["--layer", "8"], "--layer 8 must be 0 to 7"),
    ],
)
def test_bad_input_ends_with_a_sentence(analyse, caplog, flags, message):
    assert analyse("heatmap", "--output-dir", "out", *flags) == 2
    assert message in caplog.text
